"""The fault matrix's own judgement: what counts as recovered, missing, grown; and that its tools do what they say."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
import v2x
from v2x.audit import EventCheck, PositionCheck, Sightings, Stream, settle
from v2x.errors import BrokerError, ConfigError

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.log import Log
from v2x_loadtest.audit.quiet import Quiet, _set_against
from v2x_loadtest.audit.verdict import Verdict
from v2x_loadtest.chaos import faults, soak
from v2x_loadtest.chaos.clock import Clock
from v2x_loadtest.chaos.crowd import COPY_RATE, copies_for
from v2x_loadtest.chaos.figures import Figures, count, excuse, limit_ms, recovery, set_right
from v2x_loadtest.chaos.report import markdown, merged
from v2x_loadtest.chaos.run import Outcome
from v2x_loadtest.chaos.side import vehicle
from v2x_loadtest.chaos.table import ROWS, Expect, Row, rows, verdict
from v2x_loadtest.chaos.tunnel import FAR, NEAR, Tunnel
from v2x_services.brokers import with_settings

GOOD = Figures(sent=10, acknowledged=10, recovery_s=1.0)


def row(**expect: object) -> Row:
    return Row("r", "a fault", lambda _w: None, Expect(**expect))  # type: ignore[arg-type]


# --- Recovery ---------------------------------------------------------------


def late(outage: tuple[float, float], *, until: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Messages each 10 ms, 50 ms late, those of an outage as late as its end."""
    at = np.arange(0, round(until * 1e6), 10_000)
    waits = np.full(at.size, 50.0)
    hit = (at >= outage[0] * 1e6) & (at < outage[1] * 1e6)
    waits[hit] = (outage[1] * 1e6 - at[hit]) / 1e3 + 50.0
    return at, waits


def test_recovery_ends_with_the_first_good_second() -> None:
    at, waits = late((5.0, 8.0))
    # Who sends 2.95 s after the kill waits 100 ms: that is within the limit.
    assert recovery(at, waits, 5_000_000, 100.0, 50) == pytest.approx(3.0, abs=0.1)


def test_never_late_is_back_at_once() -> None:
    at, waits = late((0.0, 0.0))
    assert recovery(at, waits, 5_000_000, 100.0, 50) == 0.0


def test_late_to_the_end_is_not_back() -> None:
    at, waits = late((5.0, 20.0))
    assert recovery(at, waits, 5_000_000, 100.0, 50) is None


def test_a_silent_second_is_no_recovery() -> None:
    at, waits = late((0.0, 0.0))
    keep = (at < 5_000_000) | (at > 9_000_000)
    assert recovery(at[keep], waits[keep], 5_000_000, 100.0, 50) == pytest.approx(3.6, abs=0.1)


def test_a_slow_machine_is_measured_by_itself() -> None:
    assert limit_ms(40.0) == 100.0
    assert limit_ms(200.0) == 300.0


def test_whole_hours_are_taken_off_stamps() -> None:
    log = Log()
    log.columns["stamp_ms"] = array("q", [1_000_000_000, 1_003_600_500, 996_400_700])
    set_right(log, 1_000_000_100)
    assert log.column("stamp_ms").tolist() == [1_000_000_000, 1_000_000_500, 1_000_000_700]


# --- The verdict ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lost_reliable": 1}, "lost 1 reliable"),
        ({"lost_perishable": 2}, "lost 2 perishable"),
        ({"duplicates": 1}, "told twice"),
        ({"missing_ends": 1}, "ends missing"),
        ({"missing": 1}, "outputs missing"),
        ({"extra": 1}, "quiet run does not make"),
        ({"dead": 1}, "dead letters"),
        ({"drained": False}, "not drained"),
        ({"p99_before_ms": 301.0}, "too busy"),
        ({"recovery_s": None}, "not back within the run"),
        ({"recovery_s": 5.1}, "back after 5.1 s"),
    ],
)
def test_each_fault_of_a_result_is_found(change: dict[str, object], says: str) -> None:
    found = verdict(row(), Figures(**{**GOOD.as_dict(), **change}), None)
    assert len(found) == 1
    assert says in found[0]


def test_a_good_result_and_what_a_row_excuses() -> None:
    assert verdict(row(), GOOD, None) == []
    crash = Figures(**{**GOOD.as_dict(), "lost_perishable": 9})
    assert verdict(row(perishable=True), crash, None) == []
    crash.lost_reliable = 1  # devices keep those until they are confirmed
    assert verdict(row(perishable=True), crash, None)
    assert verdict(row(stall_fusion_s=4.0), Figures(**{**GOOD.as_dict(), "stall_fusion_s": 4.5}), None)


@pytest.mark.parametrize(("dropped", "left"), [(3, 0), (2, 1)])
def test_what_quarantine_drops_is_excused_by_its_counter_only(dropped: int, left: int) -> None:
    seqs = np.arange(3)
    bad = Sightings(published=seqs, acknowledged=seqs)
    good = Sightings(published=seqs, acknowledged=seqs, logged=seqs)
    account = settle({Stream("BAD", 1, "bsm"): bad, Stream("GOOD", 1, "bsm"): good})
    audit = Verdict(account, EventCheck(), PositionCheck(), {}, 0, {}, 0, 0)
    found = Figures()
    count(found, audit, None)
    assert found.lost_perishable == 3
    excuse(found, audit, ["BAD"], dropped)
    assert found.lost_perishable == left
    assert bool(found.faults) == bool(left)


def test_rows_have_names_of_their_own_and_unknown_ones_are_told() -> None:
    assert len({r.name for r in ROWS}) == len(ROWS)
    assert [r.name for r in rows(["kill-fusion", "kill-ingest"])] == ["kill-fusion", "kill-ingest"]
    assert rows([]) == list(ROWS)
    with pytest.raises(ConfigError, match="no row nope; there are kill-ingest"):
        rows(["nope"])


# --- Against a quiet run ----------------------------------------------------


def test_missing_extra_and_reordered_outputs() -> None:
    codec = ReferenceCodec(Registry.load())

    def found(seen: list[bytes], wanted: list[bytes]) -> Quiet:
        quiet = Quiet()
        _set_against(quiet, "v2x.tracks", 0, seen, wanted, codec)
        return quiet

    assert (found([b"a", b"b"], [b"a", b"b"]).missing, found([b"a", b"b"], [b"a", b"b"]).extra) == (0, 0)
    short, long, turned = found([b"a"], [b"a", b"b"]), found([b"a", b"b"], [b"a"]), found([b"b", b"a"], [b"a", b"b"])
    assert (short.missing, short.extra) == (1, 0)
    assert (long.missing, long.extra) == (0, 1)
    assert (turned.missing, turned.extra) == (0, 1)
    assert "record 1 of 2 differs" in short.first[0]


# --- Tools ------------------------------------------------------------------


def test_copies_send_at_least_the_rate() -> None:
    assert [copies_for(r) for r in (1, 270, 271, 2000)] == [1, 1, 2, 8]
    assert copies_for(2000) * COPY_RATE >= 2000


def test_settings_of_a_broker_are_replaced_added_and_taken_away() -> None:
    assert with_settings("a=1\nb=2\n# a=3\nc=4\n", {"a": 9, "c": None, "d": 5}, "=") == "b=2\n# a=3\na=9\nd=5\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_clock_jumps_for_one_process_and_its_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    program = (
        "import sys, time\nfor _ in sys.stdin: print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)"
    )
    env = {**os.environ, **clock.environment}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for shift in (0, 3600, -3600, 0):
            clock.set(shift)
            other.stdin.write("\n")
            other.stdin.flush()
            said = [float(n) for n in other.stdout.readline().split()]
            assert said[0] == pytest.approx(time.time() + shift, abs=5)
            assert said[1] == pytest.approx(time.time() + shift, abs=5)
            assert said[2] == pytest.approx(time.monotonic(), abs=5)
        other.stdin.close()


def echo(host: str) -> socket.socket:
    """Return a server that sends back what it gets."""
    server = socket.create_server((host, 0))

    def serve_one(s: socket.socket) -> None:
        with s:
            while data := s.recv(1000):
                s.sendall(data)

    def serve() -> None:
        while True:
            try:
                s, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(s,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return server


def there_and_back(s: socket.socket, seconds: float = 5.0) -> float | None:
    """Return how long a byte is away; None if it does not come back in time."""
    s.settimeout(seconds)
    began = time.monotonic()
    s.sendall(b"x")
    try:
        assert s.recv(1) == b"x"
    except TimeoutError:
        return None
    return time.monotonic() - began


@pytest.mark.skipif(bool(Tunnel.why_not()), reason=Tunnel.why_not())
def test_the_bad_network() -> None:
    before = Path("/proc/thread-self/ns/net").readlink()
    with Tunnel() as tunnel, echo(NEAR) as server:
        far = FAR, server.getsockname()[1]
        with socket.create_connection(far) as one:
            assert there_and_back(one) is not None
            tunnel.delay_s = 0.1
            assert 0.2 <= (there_and_back(one) or 0.0) < 2.0
            tunnel.heal()
            tunnel.cut = True
            assert there_and_back(one, 0.3) is None
            tunnel.heal()
            one.settimeout(5.0)
            assert one.recv(1) == b"x"  # what was sent meanwhile comes afterwards
            tunnel.half_open()
            assert there_and_back(one, 0.3) is None
            with socket.create_connection(far) as other:
                assert there_and_back(other) is not None
            assert there_and_back(one, 0.3) is None  # for ever
    assert Path("/proc/thread-self/ns/net").readlink() == before


@pytest.mark.skipif(bool(Tunnel.why_not()), reason=Tunnel.why_not())
def test_tcp_makes_up_for_lost_packets() -> None:
    sent, got = random.Random(1).randbytes(2_000_000), bytearray()
    with Tunnel(seed=3) as tunnel, echo(NEAR) as server:
        with socket.create_connection((FAR, server.getsockname()[1])) as one:
            tunnel.loss = 0.05
            threading.Thread(target=one.sendall, args=(sent,), daemon=True).start()
            one.settimeout(10.0)
            while len(got) < len(sent):
                got += one.recv(1 << 16)
        assert got == sent
        assert 0.04 < tunnel.dropped / (tunnel.passed + tunnel.dropped) < 0.06


def test_a_device_beside_the_crowd_sends_what_its_schema_allows() -> None:
    made = vehicle("OBU-X", (31.0, 120.0), 100, ("127.0.0.1", 1), clock=lambda: 1_790_000_000_123)
    codec = ReferenceCodec(Registry.load())
    for n in range(3):
        packet = made._packet(n)
        name, record = codec.decode_mqtt(packet[packet.index(b"\xc3\x01") :])
        assert (name, record["device"], record["ts_ms"]) == ("bsm", "OBU-X", 1_790_000_000_123)
        assert record["seq"] == 8192 + n


# --- Pages ------------------------------------------------------------------


def test_the_table_of_a_kept_result(tmp_path: Path) -> None:
    done = Outcome(row(), Figures(sent=1234, rate=270.4, acknowledged=1234, recovery_s=2.5, stall_ingest_s=0.4))
    absent = Outcome(Row("d", "a disk", lambda _w: None), not_possible="no root")
    head = {"machine": {"cpu": "X", "cores": 2}, "rate": 2000.0, "seconds": 8.0, "seed": 1}
    made = {**head, "rows": [done.as_dict(), absent.as_dict()]}
    text = markdown(made)
    assert "| a fault (`r`) | 270 | 1,234 | 1,234 | 0 | 0 | 0 | 0 | 0 | 2.5 s | 5 s | 0.4 s | 0 s | pass |" in text
    assert "not possible here: no root" in text
    kept = tmp_path / "kept.json"
    assert merged(kept, made) == made
    kept.write_text('{"rows": [{"row": "old"}, {"row": "r"}]}')
    assert [r["row"] for r in merged(kept, made)["rows"]] == ["old", "r", "d"]
    assert merged(kept, made)["rows"][1] == done.as_dict()
    kept.write_text("[]")
    with pytest.raises(ConfigError, match="holds something else"):
        merged(kept, made)


# --- Soak -------------------------------------------------------------------


def test_every_fault_comes_once_before_one_comes_again() -> None:
    n = len(soak.FAULTS)
    found = soak.order(7, 2 * n + 1)
    assert sorted(found[:n]) == sorted(found[n : 2 * n]) == list(range(n))
    assert found == soak.order(7, 2 * n + 1)
    assert found != soak.order(8, 2 * n + 1)


def test_growth_is_found_and_a_restart_is_none() -> None:
    steady = [{"s": float(s), "lag": 0.0, "in_flight": 0.0, "ingest": 200.0, "kafka": 300.0 + s} for s in range(90)]
    report = soak.SoakReport(GOOD, samples=steady, grown_mb=soak.grown(steady))
    assert report.grown_mb == {"ingest": 0.0, "kafka": 60.0}
    assert soak.wrong(report) == []
    leak = [{**r, "ingest": 200.0 + r["s"]} for r in steady]
    report = soak.SoakReport(GOOD, samples=leak, grown_mb=soak.grown(leak))
    assert soak.wrong(report) == ["ingest has grown by 60 MB"]
    assert "<svg" in soak.plot(report)


def test_the_other_build_has_another_threshold(tmp_path: Path) -> None:
    before = Path(v2x.__file__).parent
    shutil.copytree(before / "events", tmp_path / "events")
    faults.change_threshold(tmp_path)
    differ = [
        p.name
        for p in (tmp_path / "events").glob("*.py")
        if p.read_bytes() != (before / "events" / p.name).read_bytes()
    ]
    assert differ == ["rules_tracks.py"]
    with pytest.raises(BrokerError):
        faults.change_threshold(before / "fusion")
