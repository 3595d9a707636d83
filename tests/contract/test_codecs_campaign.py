"""The campaign of mistaken messages: it holds, it can be done again, and it notices a decoder that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fastavro.schema import parse_schema
from typer.testing import CliRunner
from v2x.columns import Batch, Verdict
from v2x.errors import SchemaError

from v2x_codecs import mutate, vectors
from v2x_codecs.campaign import BATCH, Campaign, Tally
from v2x_codecs.corpus import Corpus, corpus_dir
from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry, Schema, wire_fingerprint
from v2x_services.cmd_schemas import app

REGISTRY = Registry.load()
GOLDEN = [v.mqtt for v in vectors.load(REGISTRY)]
CASES = 200_000


def field(name: str, type_: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **more}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def every_kind() -> Registry:
    """Two versions of a schema with all that columns can hold, deep arrays and small limits."""
    enum = {"type": "enum", "name": "Kind", "symbols": ["A", "B", "C"], "default": "A"}
    leaf = {"type": "record", "name": "Leaf", "fields": [field("x", "int", min=-5, max=5), field("y", "int")]}
    deep = {
        "type": "record", "name": "Deep",
        "fields": [field("flags", array("boolean")), field("leaves", array(leaf), maxItems=3), field("n", "long")],
    }  # fmt: skip
    old = [
        field("a", "int", min=0, max=9), field("gone", "string", default=""), field("kind", enum),
        field("deep", array(deep), minItems=1, maxItems=4), field("raw", "bytes", maxLength=20),
        field("id", {"type": "fixed", "name": "Id", "size": 5}), field("dropped", array("double"), default=[]),
    ]  # fmt: skip
    new = [field("fresh", "long", default=-7), *old[2:6], field("a", "int", min=0, max=99), field("d", array("double"),
           default=[]), field("words", array("string"), default=[], maxItems=3)]  # fmt: skip
    found = []
    for version, fields in enumerate((old, new), 1):
        raw = {"type": "record", "name": "Thing", "fields": fields}
        found.append(
            Schema("thing", version, version, wire_fingerprint(raw), raw, parse_schema(raw, _write_hint=False))
        )
    return Registry({"thing": tuple(found)})


def of(campaign: Campaign, cases: int, first: int = 0) -> Tally:
    total = Tally()
    for nth in range(first, first + cases // BATCH):
        total.add(campaign.batch(nth)[0])
    return total


def test_two_hundred_thousand_messages() -> None:
    total = of(Campaign(REGISTRY, GOLDEN, seed=2), CASES)
    assert total.findings == []
    assert total.cases == CASES
    assert total.accepted > CASES // 8
    assert set(total.verdicts) >= {v.name for v in Verdict} - {"TOO_LARGE", "EMPTY"}
    assert len(total.differences) >= 10


def test_every_kind_of_field_in_two_versions() -> None:
    total = of(Campaign(every_kind(), [], seed=3), 40_000)
    assert total.findings == []
    assert total.accepted > 5_000
    assert len(total.differences) >= 10


def test_a_batch_can_be_done_again() -> None:
    one, other = Campaign(REGISTRY, GOLDEN, 5), Campaign(REGISTRY, GOLDEN, 5)
    first, again = one.batch(17), (other.batch(3), other.batch(17))[1]
    assert first == again
    assert first != Campaign(REGISTRY, GOLDEN, 6).batch(17)


class Wrong(ColumnDecoder):
    """A decoder with one mistake."""

    def __init__(self, registry: Registry, mistake: str) -> None:
        super().__init__(registry)
        self._mistake = mistake

    def decode_mqtt(self, payloads: Any, expect: Any = None) -> Batch:
        if self._mistake == "raises":
            raise IndexError(3)
        batch = super().decode_mqtt(payloads, expect)
        if self._mistake == "value":
            batch.tables["tick"].data[-1, 2] += 1
        elif self._mistake == "text":
            batch.heap = batch.heap.replace(b"RSU", b"RSV")
        elif self._mistake == "parent":
            batch.tables["confirm.gaps"].parent[:] = 0
        elif self._mistake == "offset":
            batch.at[batch.verdict == Verdict.BAD_VARINT] += 1
        elif self._mistake == "lenient":
            long = batch.verdict == Verdict.TRAILING
            batch.verdict[long] = Verdict.OK
        elif self._mistake == "strict":
            batch.verdict[0], batch.at[0] = Verdict.BAD_VALUE, 10
        return batch


@pytest.mark.parametrize("mistake", ["raises", "value", "text", "parent", "offset", "lenient", "strict"])
def test_it_notices(mistake: str) -> None:
    campaign = Campaign(REGISTRY, GOLDEN)
    good = [p for p in GOLDEN if mistake != "offset"]
    wide = bytes((*GOLDEN[0][:-1], *(0x80,) * 12))
    payloads = [*good, GOLDEN[0] + b"\x00", wide]
    assert campaign.judge(payloads)[0].findings == []
    campaign._fast = Wrong(REGISTRY, mistake)
    assert campaign.judge(payloads)[0].findings


def test_a_difference_without_a_row_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v2x_codecs.differences.DIFFERENCES", ())
    tally, _ = Campaign(REGISTRY, GOLDEN).judge([GOLDEN[0] + b"\x00"])
    (finding,) = tally.findings
    assert "fastavro takes what we refuse (TRAILING at 73)" in finding


@pytest.mark.parametrize("outside", [0.0, 0.5])
def test_invented_records_are_legal_unless_they_may_be_outside(outside: float) -> None:
    codec, rng = ReferenceCodec(REGISTRY), Random(4)
    payloads = [
        codec.encode_mqtt(name, mutate.record(REGISTRY.get(name).raw, rng, outside=outside))
        for name in REGISTRY.names
        for _ in range(20)
    ]
    assert ColumnDecoder(REGISTRY).decode_mqtt(payloads).verdict.any() == (outside > 0)


def test_zigzag_of_any_width() -> None:
    assert [mutate.zigzag(v).hex() for v in (0, -1, 1, 64, -(1 << 63))] == ["00", "01", "02", "8001", "ff" * 9 + "01"]
    assert mutate.zigzag(1, 4) == b"\x82\x80\x80\x00"


# The corpus: what campaigns found, kept.


def test_the_corpus_holds() -> None:
    corpus = Corpus.load(corpus_dir())
    cases = corpus.cases
    campaign = Campaign(REGISTRY, GOLDEN)
    tally, judged = campaign.judge([case.payload for case in cases])
    assert tally.findings == []
    assert judged == cases, "run `v2x schemas fuzz --corpus codecs/corpus` if a schema has changed"
    assert {case.schema for case in cases} >= set(REGISTRY.names)
    assert {case.verdict for case in cases} >= set(Verdict) - {Verdict.OK, Verdict.WRONG_SCHEMA, Verdict.TOO_LARGE}
    fields = {case.field for case in cases}
    assert len(fields) > 0.9 * len(ColumnDecoder(REGISTRY).field_names) - len(REGISTRY.names)


def test_a_corpus_keeps_the_shortest_and_survives_its_files(tmp_path: Path) -> None:
    campaign = Campaign(REGISTRY, GOLDEN)
    long, short = GOLDEN[0] + b"\x00\x00\x00", GOLDEN[1] + b"\x00"
    corpus = Corpus()
    assert corpus.add(campaign.judge([long, b""])[1]) == 2
    assert corpus.add(campaign.judge([short])[1]) == 0
    (tmp_path / "gone.txt").write_text("")
    corpus.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ack.txt", "header.txt"]
    again = Corpus.load(tmp_path)
    assert again.cases == corpus.cases == again.renewed(campaign).cases
    assert [case.payload for case in again.cases] == [b"", short]
    (tmp_path / "ack.txt").write_text("NOTHING\t1\t-\t-\t00\n")
    with pytest.raises(SchemaError, match=r"corpus ack\.txt, line 1"):
        Corpus.load(tmp_path)


# The command.


def test_the_command_says_what_it_did_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    whole = run(app, ["fuzz", "--cases", "4000", "--json", "--corpus", str(tmp_path)])
    assert whole.exit_code == 0
    made = json.loads(whole.stdout)
    assert (made["ok"], made["cases"], made["next"], made["findings"]) == (True, 4000, 4000, [])
    assert made["new"] == len(Corpus.load(tmp_path).cases) > 50
    parts = [json.loads(run(app, ["fuzz", "--cases", "2000", "--from", n, "--json"]).stdout) for n in ("0", "2000")]
    assert sum(part["accepted"] for part in parts) == made["accepted"]
    assert "4,000 messages of seed 1" in run(app, ["fuzz", "--cases", "4000"]).stdout

    real = Campaign.batch

    def interrupted(self: Campaign, nth: int, size: int = BATCH) -> Any:
        if nth == 2:
            raise KeyboardInterrupt
        return real(self, nth, size)

    monkeypatch.setattr(Campaign, "batch", interrupted)
    stopped = run(app, ["fuzz", "--cases", "4000", "--seed", "9"])
    assert stopped.exit_code == 130
    assert "v2x schemas fuzz --seed 9 --from 2000 --cases 2000" in stopped.stderr

    def finds(_self: Campaign, _nth: int, _size: int = BATCH) -> Any:
        return Tally(cases=BATCH, findings=["something: c301"]), []

    monkeypatch.setattr(Campaign, "batch", finds)
    found = run(app, ["fuzz", "--cases", "1000"])
    assert found.exit_code == 1
    assert "something: c301" in found.stderr


def test_the_share_decides_how_many_are_compared() -> None:
    tallies = [Campaign(REGISTRY, GOLDEN, 1, share).batch(0)[0] for share in (0.0, 1.0)]
    refused = tallies[0].cases - tallies[0].accepted
    assert [tally.compared for tally in tallies] == [0, refused]
    assert np.array_equal(tallies[0].accepted, tallies[1].accepted)
