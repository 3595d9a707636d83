"""A message field by field: what it says agrees with the decoder that refused it."""

from __future__ import annotations

from random import Random

import pytest
from v2x.columns import Verdict
from v2x.errors import DecodeError, SchemaError

from v2x_codecs import vectors
from v2x_codecs.explain import explain
from v2x_codecs.framing import MQTT_HEADER
from v2x_codecs.mutate import mistaken
from v2x_codecs.reference import ReferenceCodec, ReferenceDecoder
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
GOLDEN = vectors.load(REGISTRY)


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda v: f"{v.schema}")
def test_every_value_of_a_good_message(vector: vectors.Vector) -> None:
    name, lines = explain(REGISTRY, vector.mqtt)
    assert name.startswith(f"{vector.schema} version ")
    assert not [line for line in lines if line.wrong]
    assert lines[0].at == MQTT_HEADER
    record = ReferenceCodec(REGISTRY).decode_mqtt(vector.mqtt)[1]
    flat = {line.path: line.value for line in lines}
    for key, value in record.items():
        if isinstance(value, int | str | float) and key in flat:
            assert flat[key] == value
    assert "device" not in record or flat["device"] == record["device"]


def test_what_is_wrong_is_where_the_decoder_says_it_is() -> None:
    rng, slow = Random(7), ReferenceDecoder(REGISTRY)
    payloads = [v.mqtt for v in GOLDEN]
    seen = set()
    for _ in range(3000):
        bad = mistaken(rng.choice(payloads), MQTT_HEADER, payloads, rng)
        batch = slow.decode_mqtt([bad])
        verdict = Verdict(int(batch.verdict[0]))
        try:
            _, lines = explain(REGISTRY, bad)
        except (DecodeError, SchemaError):
            assert verdict in {Verdict.EMPTY, Verdict.BAD_FRAMING, Verdict.UNKNOWN_SCHEMA, Verdict.TRUNCATED}
            continue
        wrong = [line for line in lines if line.wrong]
        assert bool(wrong) == (verdict is not Verdict.OK), (verdict, bad.hex())
        seen.add(verdict)
        if verdict in {Verdict.OUT_OF_RANGE, Verdict.BAD_VARINT}:
            assert int(batch.at[0]) in {line.at for line in wrong} | {line.at for line in lines if "[]" in line.path}
    assert len(seen) > 6


def test_an_absurd_count_ends_with_the_bytes() -> None:
    vector = next(v for v in GOLDEN if v.schema == "rsm")
    at = next(line.at for line in explain(REGISTRY, vector.mqtt)[1] if line.path == "participants[]")
    _, lines = explain(REGISTRY, vector.mqtt[:at] + b"\xfe\xff\xff\xff\x0f" + vector.mqtt[at + 1 :])
    assert len(lines) < 200
    assert lines[-1].wrong
