"""Time rules, quarantine, pseudonyms, dead letters, routing: the pure rules of ingest."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from v2x.columns import Verdict
from v2x.deadletters import CATALOGUE, KEEP_HEAD, KEEP_WHOLE, Letter, Reason, record
from v2x.devices import DeviceTable
from v2x.errors import ConfigError
from v2x.pseudonym import Pseudonyms, normalise_plate, vehicle_key
from v2x.quarantine import Quarantine, QuarantineLimits, Ruling
from v2x.routing import Router
from v2x.timerules import TimeRules
from v2x.topics import MessageClass
from v2x.zones import ZoneMap

from v2x_services.ingest.pace import Pace

NOW = 1_750_000_000_000
DAY = 86_400_000
OK, AHEAD, OLD = 0, Reason.AHEAD, Reason.TOO_OLD
P, R = MessageClass.PERISHABLE, MessageClass.RELIABLE


# -- the pause between two reads


@pytest.mark.parametrize(
    ("rate", "pause_ms"),
    [(100, 0), (1_000, 3), (2_000, 6), (17_000, 6), (20_000, 6), (25_000, 7.5), (34_000, 10.2), (90_000, 10.2)],
)
def test_the_pause_between_two_reads_follows_the_rate(rate: int, pause_ms: float) -> None:
    pace, now, pause, due = Pace(0.006, 0.0), 0.0, 0.0, 0.0
    while now < 2.0:
        now += max(pause, 0.0005)
        messages, due = int(rate * now - due), int(rate * now)
        pause = pace.after(now, messages)
    assert pause * 1000 == pytest.approx(pause_ms, rel=0.1, abs=0.1)


# -- time rules


def judge(
    rules: TimeRules, rows: list[tuple[int, int, MessageClass, bool]], now: int = NOW, mono: int | None = None
) -> list[int]:
    """Judge (device, age in ms, class of all, retained)."""
    device, age, kind, retained = zip(*rows, strict=True)
    reason = np.zeros(len(rows), np.int32)
    odd = rules.judge(
        now,
        now - NOW if mono is None else mono,
        np.array(device, np.int32),
        now - np.array(age, np.int64),
        kind[0],
        np.array(retained, np.int64),
        reason,
    )
    assert odd == np.count_nonzero(reason)
    return reason.tolist()


@pytest.mark.parametrize(
    ("age_ms", "kind", "retained", "verdict"),
    [
        (0, P, False, OK),
        (-5_000, P, False, OK),
        (-5_001, P, False, AHEAD),
        (-5_001, R, False, AHEAD),
        (360_000, P, False, OK),
        (360_001, P, False, OLD),
        (360_001, P, True, OK),
        (-5_001, P, True, AHEAD),
        (360_001, R, False, OK),
        (30 * DAY, R, False, OK),
        (30 * DAY + 1, R, False, OLD),
    ],
)
def test_limits_of_age(age_ms: int, kind: MessageClass, retained: bool, verdict: int) -> None:
    assert judge(TimeRules(10), [(0, age_ms, kind, retained)]) == [verdict]


def test_one_odd_device_does_not_spoil_its_neighbours() -> None:
    rules = TimeRules(10)
    assert judge(rules, [(0, 0, P, False), (1, -9_000, P, False), (0, 0, P, False)]) == [OK, AHEAD, OK]


def test_what_is_bad_already_is_not_judged() -> None:
    rules = TimeRules(2)
    ts_ms, reason = np.array([NOW + 60_000, NOW + 60_000]), np.array([7, 0], np.int32)
    odd = rules.judge(NOW, 0, np.arange(2, dtype=np.int32), ts_ms, int(P), np.zeros(2, np.int64), reason)
    assert (odd, reason.tolist()) == (1, [7, AHEAD])


def crowd(odd: int, n: int, age: int = -3_600_000) -> list[tuple[int, int, MessageClass, bool]]:
    return [(i, age if i < odd else 0, P, False) for i in range(n)]


def test_over_half_of_twenty_devices_means_our_own_clock() -> None:
    rules = TimeRules(100)
    assert judge(rules, crowd(11, 20)) == [OK] * 20
    assert rules.suspect


@pytest.mark.parametrize(("odd", "n"), [(10, 20), (19, 19)])
def test_half_or_few_devices_prove_nothing(odd: int, n: int) -> None:
    rules = TimeRules(100)
    assert judge(rules, crowd(odd, n)).count(AHEAD) == odd
    assert not rules.suspect


def test_doubt_ends_ten_seconds_after_the_last_odd_ones() -> None:
    rules = TimeRules(100)
    judge(rules, crowd(20, 20))
    assert judge(rules, crowd(0, 20), now=NOW + 9_000) == [OK] * 20
    assert rules.suspect
    judge(rules, crowd(0, 20), now=NOW + 10_001)
    assert not rules.suspect
    assert judge(rules, crowd(1, 20), now=NOW + 10_002)[0] == AHEAD


def test_a_device_counts_once_however_much_it_sends() -> None:
    rules = TimeRules(100)
    rows = crowd(0, 20) + [(3, -9_000, P, False)] * 500
    assert judge(rules, rows).count(AHEAD) == 500
    assert not rules.suspect


def test_a_step_of_our_clock_stops_the_judging_at_once() -> None:
    """The first messages after a jump are spared, not only those after half of the devices have spoken."""
    rules = TimeRules(100)
    judge(rules, crowd(0, 30))
    back = NOW - 3_600_000
    rows = [(0, -3_600_000, P, False)]
    assert judge(rules, rows, now=back, mono=100) == [OK]
    assert rules.suspect
    # Ten seconds on, only this device looks odd: it is judged again.
    later = [(i, 0, P, False) for i in range(30)]
    judge(rules, later, now=back + 10_200, mono=10_300)
    assert judge(rules, rows, now=back + 10_201, mono=10_301) == [AHEAD]


# -- quarantine


def feed(q: Quarantine, ms: int, device: int, bad: list[bool], size: int = 100) -> Ruling:
    n = len(bad)
    ruling = q.judge(ms, np.full(n, device, np.int32), np.full(n, size, np.int64), np.array(bad, np.int32))
    return ruling or Ruling(np.zeros(n, np.bool_), np.zeros(n, np.bool_))


def test_half_bad_goes_in_and_all_of_it_is_held() -> None:
    q = Quarantine(10)
    for i in range(9):
        assert not feed(q, i, 1, [True, False]).held.any()  # too few to judge
    ruling = feed(q, 10, 1, [True, False])
    assert ruling.held.all()
    assert q.devices.tolist() == [1]
    assert not feed(q, 11, 2, [False] * 30).held.any()


def test_a_quarter_bad_stays_out() -> None:
    q = Quarantine(10)
    for i in range(100):
        assert not feed(q, i, 1, [True, False, False, False]).held.any() or i < 5
    assert q.devices.tolist() == []


def test_the_first_n_a_minute_are_kept() -> None:
    q = Quarantine(10, QuarantineLimits(keep_per_minute=3))
    ruling = feed(q, 0, 1, [True] * 40)
    assert ruling.keep.sum() == 3
    assert not feed(q, 59_999, 1, [True]).keep.any()
    assert feed(q, 60_000, 1, [True] * 5).keep.tolist() == [True, True, True, False, False]


def test_good_behaviour_ends_it() -> None:
    q = Quarantine(10)
    feed(q, 0, 1, [True] * 40)
    assert feed(q, 1_000, 1, [False] * 100).held.all()
    minute = 1
    while feed(q, minute * 60_000, 1, [False] * 100).held.any():
        minute += 1
    assert minute == 2


def test_too_many_bytes_hold_for_the_rest_of_the_second() -> None:
    q = Quarantine(10, QuarantineLimits(bytes_per_second=1_000))
    assert not feed(q, 0, 1, [False], 900).held.any()
    assert feed(q, 500, 1, [False], 200).held.all()
    assert not feed(q, 1_000, 1, [False], 900).held.any()
    assert q.devices.tolist() == []


def test_many_bad_ones_a_minute_are_too_many_at_any_share() -> None:
    q = Quarantine(10, QuarantineLimits(bad_per_minute=50))
    feed(q, 0, 1, [False] * 10_000)
    assert not feed(q, 1, 1, [True] * 50).held.any()
    assert feed(q, 2, 1, [True]).held.all()


# -- devices


def test_device_numbers_are_bounded() -> None:
    table = DeviceTable(3)
    assert [table.number(d) for d in ("a", "b", "a", "c")] == [0, 1, 0, 2]
    assert table.renewals == 0
    assert table.number("d") == 0
    assert (table.renewals, len(table)) == (1, 1)
    assert table.names() == ("d",)


# -- pseudonyms


@pytest.mark.parametrize(
    ("plate", "colour"),
    [("京A12345", 0), ("京a12345", 0), (" 京A·12345", 0), ("京Ａ12345", 0), ("京A12345_0", 9), ("京A-12345_0", 0)],
)
def test_one_plate_however_it_is_written(plate: str, colour: int) -> None:
    assert normalise_plate(plate, colour) == ("京A12345", 0)


@pytest.mark.parametrize("plate", ["", " ", "(null)", "默A00000", "无", "-1"])
def test_no_plate(plate: str) -> None:
    assert normalise_plate(plate, 0)[0] == ""
    assert Pseudonyms(bytes(32)).plate(plate, 0) == ""


def test_pseudonyms_depend_on_key_kind_and_colour() -> None:
    one, other = Pseudonyms(bytes(32)), Pseudonyms(b"k" * 32)
    found = {
        one.plate("京A12345", 0),
        one.plate("京A12345", 1),
        other.plate("京A12345", 0),
        one.of(b"obu", "京A12345_0"),
    }
    assert len(found) == 4
    assert all(len(p) == 32 and int(p, 16) >= 0 for p in found)
    assert one.plate("京A12345", 0) == Pseudonyms(bytes(32)).plate("京A12345", 0)


def test_a_key_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="32"):
        Pseudonyms(b"short")


def test_cover_replaces_what_names_a_person_and_nothing_else() -> None:
    clear = {
        "device": "G",
        "plate": "京A12345",
        "plate_colour": 0,
        "obu_sn": "11",
        "card_id": "",
        "pass_id": "P",
        "fee": 3,
    }
    covered = Pseudonyms(bytes(32)).cover(clear)
    assert covered["card_id"] == ""
    assert {k for k in clear if covered[k] != clear[k]} == {"plate", "obu_sn", "pass_id"}
    assert clear["plate"] == "京A12345"


def test_the_vehicle_key_takes_the_best_there_is() -> None:
    row = {"device": "G", "plate": "p", "obu_sn": "o", "card_id": "c", "pass_id": "j"}
    keys = []
    for name in ("plate", "obu_sn", "card_id", "pass_id", "device"):
        keys.append(vehicle_key(row))
        row[name] = ""
    assert keys == [b"p", b"o", b"c", b"j", b"G"]


# -- dead letters


def test_every_reason_is_explained_and_every_verdict_has_one() -> None:
    assert set(CATALOGUE) == set(Reason)
    assert {int(v) for v in Verdict} - {0} <= {int(r) for r in Reason}


def letter(payload: bytes, **more: str) -> Letter:
    return Letter(Reason.TRUNCATED, "detail", "v2x/v1/rsu/A/rsm/up", payload, 1, **more)


@pytest.mark.parametrize(("size", "kept"), [(0, 0), (KEEP_WHOLE, KEEP_WHOLE), (KEEP_WHOLE + 1, KEEP_HEAD)])
def test_large_payloads_are_cut(size: int, kept: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    found = record(letter(payload))
    assert (found["size"], found["payload"]) == (size, payload[:kept])
    assert found["sha256"] == hashlib.sha256(payload).hexdigest()
    assert not found["sealed"]


def test_sealing_covers_what_is_kept() -> None:
    found = record(letter(b"\xc3\x01ABCDEFGH plate"), lambda data: data[::-1])
    assert found["sealed"]
    assert found["payload"] == b"\xc3\x01ABCDEFGH plate"[::-1]
    assert found["fingerprint"] == b"ABCDEFGH".hex()


def test_long_texts_fit_the_schema() -> None:
    found = record(Letter(Reason.UNKNOWN_TOPIC, "é" * 600, "t" * 5000, b"", 1, "d" * 100, "y" * 100))
    lengths = {name: len(found[name].encode()) for name in ("detail", "topic", "device", "type")}
    assert lengths == {"detail": 512, "topic": 1024, "device": 64, "type": 16}


# -- routing

_DOC = {
    "version": 1,
    "name": "t",
    "zones": [
        {"id": "west", "polygon": [[31, 120], [31, 120.1], [31.1, 120.1], [31.1, 120]], "neighbours": ["east"]},
        {"id": "east", "polygon": [[31, 120.1], [31, 120.2], [31.1, 120.2], [31.1, 120.1]], "neighbours": ["west"]},
    ],
    "devices": {"R": {"zone": "east", "halo": ["west"], "lat": 31.05, "lon": 120.1}},
}
ZONES = ZoneMap.parse(_DOC)
WEST, EAST = ZONES.partition("west", 64), ZONES.partition("east", 64)


def e7(degrees: float) -> int:
    return round(degrees * 1e7)


def test_known_devices_go_where_the_map_says() -> None:
    router = Router(ZONES, 64)
    assert WEST != EAST
    assert router.fixed("R") == (EAST, WEST)
    assert router.fixed("unknown") is None


def test_vehicles_go_by_position_and_near_the_border_to_both() -> None:
    router = Router(ZONES, 64)
    assert router.place("O", e7(31.05), e7(120.05), moves=True) == (WEST,)
    assert router.place("O", e7(31.05), e7(120.15), moves=True) == (EAST,)
    assert router.place("O", e7(31.05), e7(120.0995), moves=True) == (WEST, EAST)


def test_two_zones_in_one_partition_get_one_copy() -> None:
    assert Router(ZONES, 1).place("O", e7(31.05), e7(120.0995), moves=True) == (0,)


def test_an_unknown_fixed_device_stays_where_it_last_said_it_was() -> None:
    router = Router(ZONES, 64)
    lost = router.place("N", None, None, moves=False)
    assert lost == router.place("N", 900_000_001, 1_800_000_001, moves=False)
    for lon, home in ((120.05, WEST), (120.15, EAST)):
        assert router.place("N", e7(31.05), e7(lon), moves=False) == (home,)
        assert router.place("N", None, None, moves=False) == (home,)


def test_a_vehicle_without_position_has_no_home_that_it_remembers() -> None:
    router = Router(ZONES, 64)
    before = router.place("O", None, None, moves=True)
    router.place("O", e7(31.05), e7(120.05), moves=True)
    router.place("O", e7(31.05), e7(120.15), moves=True)
    assert router.place("O", None, None, moves=True) == before
