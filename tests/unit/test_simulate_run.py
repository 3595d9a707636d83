"""What a run of the simulator says: envelopes, times, faults, copies; no broker needed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from v2x.errors import ConfigError
from v2x.topics import UPLINKS
from v2x.zones import ZoneMap

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.scene import Scene, SignalPhase, SignalPlan, load_scene
from v2x_loadtest.simulate import GantryModel, GnssModel, LinkModel, Options, build_messages, scaled_zones
from v2x_loadtest.simulate.build import Generator
from v2x_loadtest.simulate.scale import copy_hex
from v2x_loadtest.simulate.steady import CODE
from v2x_loadtest.simulate.step import REPEAT, SPOILT, UNAVAILABLE

T0 = 1_760_000_000_000_000
CODEC = ReferenceCodec(Registry.load())


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The computed scene, with a signal, and the stopped car announced by RSI."""
    out = load_scene("synthetic")
    out.events = [replace(e, details={"rsi": e.kind == "STOPPED_VEHICLE"}) for e in out.events]
    plan = SignalPlan("RSU-S-02", 320, 301, 0.0, (SignalPhase(1, ((6, 10.0), (7, 3.0), (3, 12.0))),))
    out.plans = [plan]
    return out


def records(scene: Scene, options: Options) -> list[tuple[dict, np.void]]:
    """All messages of a run, decoded (which checks ranges), with their rows; by intended time within a step."""
    out = []
    for step in build_messages(scene, options, T0):
        for i, row in enumerate(step.messages):
            name, record = CODEC.decode_mqtt(step.payload(i))
            assert name == UPLINKS[row["code"]].schema
            assert (record["seq"], record["ts_ms"]) == (row["seq"], row["ts_ms"])
            out.append((record, row))
    return out


@pytest.fixture(scope="module")
def run(scene: Scene) -> list[tuple[dict, np.void]]:
    return records(scene, Options(seed=3))


def of(run: list[tuple[dict, np.void]], kind: str, type_: str) -> list[tuple[dict, np.void]]:
    return [(r, m) for r, m in run if m["code"] == CODE[kind, type_] and not m["flags"] & REPEAT]


def test_same_seed_same_bytes_other_seed_other_bytes(scene: Scene) -> None:
    options = Options(duration=5, offset=10)
    one, two = build_messages(scene, options, T0), build_messages(scene, options, T0)
    assert all(a.blob == b.blob and np.array_equal(a.messages, b.messages) for a, b in zip(one, two, strict=True))
    other = build_messages(scene, replace(options, seed=2), T0)
    assert [s.blob for s in other] != [s.blob for s in one]


def test_sequence_numbers_have_no_gaps_and_belong_to_their_topic(run: list) -> None:
    seen: dict[tuple, set[int]] = defaultdict(set)
    for record, row in run:
        seen[record["device"], record["boot"], int(row["code"])].add(record["seq"])
    for key, numbers in seen.items():
        assert numbers == set(range(len(numbers))), key
    assert {k[2] for k in seen} == {r.code for r in UPLINKS} - {CODE["rsu", "ack"]}


def test_many_messages_of_a_device_in_one_step_are_numbered() -> None:
    scene = load_scene("synthetic")
    scene.passages = replace(scene.passages, t_s=np.full(len(scene.passages), 5.02))
    model = GantryModel(delay_s=(0.5, 0.5), missed=0)
    done = of(records(scene, Options(duration=7, gantries=model)), "gantry", "transaction")
    assert len(done) == len(scene.passages) > 4
    for gantry in ("G-S-01", "G-S-02"):
        numbers = sorted(r["seq"] for r, _ in done if r["device"] == gantry)
        assert numbers == list(range(len(numbers)))


def test_msg_cnt_counts_on(run: list) -> None:
    counts = [r["msg_cnt"] for r, _ in sorted(of(run, "obu", "bsm"), key=lambda x: x[0]["seq"])]
    assert counts[0] != 0
    assert all(b == (a + 1) % 128 for a, b in pairwise(counts))


def test_rates(run: list) -> None:
    def rate(kind: str, type_: str) -> float:
        chosen = of(run, kind, type_)
        return len(chosen) / 60 / len({r["device"] for r, _ in chosen})

    assert rate("rsu", "rsm") == pytest.approx(10)
    assert rate("rsu", "map") == pytest.approx(1)
    assert rate("rsu", "spat") == pytest.approx(2)
    assert rate("rsu", "hb") == pytest.approx(0.1)
    assert rate("gantry", "hb") == pytest.approx(0.1)
    assert rate("pole", "env") == pytest.approx(0.2)
    assert rate("pile", "status") >= 0.1


def test_times_are_those_of_content_clock_and_link(scene: Scene, run: list) -> None:
    skew = defaultdict(list)
    for record, row in of(run, "rsu", "rsm"):
        device = [d.id for d in scene.devices if d.kind == "rsu"].index(record["device"])
        true_ms = T0 / 1e3 + record["seq"] * 100 + (device * 0.6180339887498949 % 1) * 100
        skew[device].append(record["ts_ms"] - true_ms)
        delay = row["intended_us"] / 1e3 - true_ms
        assert 25 <= delay <= 40 + 15 + 150
        assert record["sec_mark"] == record["ts_ms"] % 60_000
    for values in skew.values():  # constant for a device, some ms
        assert np.ptp(values) <= 1
        assert abs(np.mean(values)) < 60
    assert len({round(np.mean(v)) for v in skew.values()}) > 1


def test_devices_are_not_sent_for_at_one_instant(run: list) -> None:
    phases = {r["device"]: (r["ts_ms"] % 100) for r, _ in of(run, "rsu", "rsm")}
    assert max(phases.values()) - min(phases.values()) > 20


def test_some_messages_come_twice_and_some_overtake(run: list) -> None:
    first = {(r["device"], int(m["code"]), r["seq"]): m for r, m in run if not m["flags"] & REPEAT}
    again = [(r, m) for r, m in run if m["flags"] & REPEAT]
    assert 0.003 < len(again) / len(run) < 0.03
    for record, row in again:
        mother = first[record["device"], int(row["code"]), record["seq"]]
        assert 1_000 <= row["intended_us"] - mother["intended_us"] < 60_000
    slow = Options(duration=10, link=LinkModel(tail_median_ms=60))
    stepped = records(load_scene("synthetic"), slow)
    rsm = sorted(of(stepped, "rsu", "rsm"), key=lambda x: x[1]["intended_us"])
    by_device = defaultdict(list)
    for record, _ in rsm:
        by_device[record["device"]].append(record["seq"])
    assert any(numbers != sorted(numbers) for numbers in by_device.values())


def test_transactions_follow_their_passages(scene: Scene, run: list) -> None:
    p = scene.passages
    hexes = {d.props["gantry_hex"]: i for i, d in enumerate(scene.devices) if d.kind == "gantry"}
    done = of(run, "gantry", "transaction")
    assert len(done) >= 0.9 * np.count_nonzero(p.t_s < 56)
    linked = 0
    for record, row in done:
        vehicle = scene.vehicles.plate.index(record["plate"])
        at = np.flatnonzero((p.vehicle == vehicle) & (p.gantry == hexes[record["gantry_hex"]]))
        passed_ms = T0 / 1e3 + p.t_s[at[0]] * 1e3
        assert record["ts_ms"] == pytest.approx(passed_ms, abs=60)
        assert record["trans_ms"] == record["ts_ms"] // 1000 * 1000
        assert 500 <= row["intended_us"] / 1e3 - passed_ms <= 3000 + 15 + 5 + 160
        assert (len(record["trade_id"]), len(record["pass_id"]), len(record["card_id"])) == (35, 36, 20)
        assert record["media_type"] == (1 if record["obu_sn"] else 2)
        assert record["fee"] <= record["pay_fee"]
        if record["last_gantry_hex"]:
            linked += 1
            before = p.t_s[(p.vehicle == vehicle) & (p.gantry == hexes[record["last_gantry_hex"]])][0]
            assert record["last_gantry_ms"] % 1000 == 0
            assert record["last_gantry_ms"] == pytest.approx(T0 / 1e3 + before * 1e3, abs=1060)
            assert record["fee_mileage"] == 650
    assert linked >= 5
    plates = of(run, "gantry", "plate")
    assert {r["plate"] for r, _ in done} <= {r["plate"] for r, _ in plates}
    assert all(r["trade_id"][:19] == r["pic_id"][:19] for r, _ in plates if r["trade_id"])


def test_gantry_faults_are_as_many_as_asked_for() -> None:
    model = GantryModel(missed=0.5, failed=0.5, plate_unread=0.3)
    run = records(load_scene("synthetic"), Options(gantries=model))
    done, plates = of(run, "gantry", "transaction"), of(run, "gantry", "plate")
    assert 0 < len(done) < len(plates)
    failed = [r for r, _ in done if r["trade_result"] == 1]
    assert failed
    assert all(r["fee"] == 0 and r["valid_status"] == 0 for r in failed)
    assert any(not r["plate"] and r["plate_colour"] == 9 for r, _ in plates)


def test_a_start_inside_the_scene_sends_no_passage_of_before(scene: Scene) -> None:
    run = records(scene, Options(offset=20, duration=20, gantries=GantryModel(missed=0, failed=0)))
    sent = of(run, "gantry", "plate")
    assert sent
    assert min(r["ts_ms"] for r, _ in sent) >= T0 / 1e3 - 60
    # The vehicle itself knows the gantry it passed before the run.
    last = [r for r, _ in of(run, "gantry", "transaction") if r["last_gantry_ms"] and r["last_gantry_ms"] < T0 / 1e3]
    assert last


def test_rsi_begins_after_the_event_and_ends_with_it(scene: Scene, run: list) -> None:
    event = next(e for e in scene.events if e.kind == "STOPPED_VEHICLE")
    said = sorted((r for r, _ in of(run, "rsu", "rsi")), key=lambda r: r["seq"])
    assert len({r["device"] for r in said}) == 1
    rtes = [r["rtes"][0] for r in said]
    assert {(x["rte_id"], x["event_type"]) for x in rtes} == {(1, event.code)}
    start = (said[0]["ts_ms"] - T0 / 1e3) / 1e3
    assert event.start_s + 6 <= start <= event.start_s + 11.2
    gaps = np.diff([r["ts_ms"] for r in said])
    assert np.allclose(gaps, 1000, atol=2)
    ended = [r for r, x in zip(said, rtes, strict=True) if x["ended"]]
    assert len(ended) == 3
    assert event.end_s + 2 <= (ended[0]["ts_ms"] - T0 / 1e3) / 1e3 <= event.end_s + 3.2
    assert rtes[-1]["end_ms"] == pytest.approx(T0 / 1e3 + event.end_s * 1e3, abs=60)
    assert abs(rtes[0]["lat"] - event.lat * 1e7) < 1000


def test_spat_is_the_plan_s(scene: Scene, run: list) -> None:
    for record, _ in of(run, "rsu", "spat"):
        (crossing,) = record["intersections"]
        (phase,) = crossing["phases"]
        t = (record["ts_ms"] - T0 / 1e3) / 1e3
        want = scene.plans[0].spat(t)["phases"][0]
        if want["likely_end"] > 1 and abs(phase["likely_end"] - want["likely_end"]) < 20:
            assert phase["light"] == want["light"]
        assert phase["next_duration"] in {30, 100, 120}


def test_map_is_the_scene_s(scene: Scene, run: list) -> None:
    for record, _ in of(run, "rsu", "map"):
        assert record["nodes"] == scene.maps[record["device"]]


def test_loop_goes_on_with_other_plates(scene: Scene) -> None:
    run = records(scene, Options(offset=50, duration=40, loop=True, gantries=GantryModel(missed=0, failed=0)))
    late = [r for r, _ in of(run, "gantry", "plate") if r["ts_ms"] > T0 / 1e3 + 10_500]
    assert late
    assert not {r["plate"] for r in late} & set(scene.vehicles.plate)
    numbers = [r["seq"] for r, _ in of(run, "rsu", "rsm") if r["device"] == "RSU-S-01"]
    assert sorted(numbers) == list(range(400))


def test_fast_replay_ends_at_the_wall_clock(scene: Scene) -> None:
    options = Options(speed=4, duration=10)
    steps = build_messages(scene, options, T0)
    rows = np.concatenate([s.messages for s in steps])
    rsm = rows[(rows["code"] == CODE["rsu", "rsm"]) & (rows["device"] == 0)]
    span_ms, wall_ms = np.ptp(rsm["ts_ms"]), np.ptp(rsm["intended_us"]) / 1e3
    assert span_ms == pytest.approx(39_900, abs=5)
    assert wall_ms == pytest.approx(39_900 / 4, abs=200)
    assert (rows["ts_ms"] <= rows["intended_us"] / 1e3 + 100).all()
    assert rsm["ts_ms"].max() > T0 / 1e3 + 10_000 - 200


def test_copies_say_the_same_further_east(scene: Scene) -> None:
    zones = ZoneMap.parse(scaled_zones(scene, 3))
    generator = Generator(scene, Options(scale=3, duration=5, offset=12), T0)
    fleet = generator.fleet
    assert len(set(fleet.ids)) == len(fleet) == 3 * len(scene.devices)
    run = []
    while not generator.done:
        step = generator.step()
        run += [(CODEC.decode_mqtt(step.payload(i))[1], m) for i, m in enumerate(step.messages) if not m["flags"] & 1]
    by_device = defaultdict(list)
    for record, row in run:
        if row["code"] in {CODE["rsu", "rsm"], CODE["obu", "bsm"], CODE["rsu", "map"]}:
            by_device[record["device"], int(row["code"])].append(record)
    mother, copy = by_device["RSU-S-02", CODE["rsu", "rsm"]], by_device["RSU-S-02-C2", CODE["rsu", "rsm"]]
    for a, b in zip(mother, copy, strict=True):
        assert zones.route(b["device"], b["ref_lat"], b["ref_lon"])[0] == zones.route(a["device"], 0, 0)[0] + "-C2"
        assert zones.zone_at(b["ref_lat"] / 1e7, b["ref_lon"] / 1e7) == "SYN-Z1-C2"
        strip = [{k: v for k, v in p.items() if k != "sec_mark"} for p in a["participants"]]
        assert strip == [{k: v for k, v in p.items() if k != "sec_mark"} for p in b["participants"]]
        assert {p["sec_mark"] for p in b["participants"]} <= {b["ts_ms"] % 60_000}
    a, b = by_device["OBU-S-0001", CODE["obu", "bsm"]][3], by_device["OBU-S-0001-C1", CODE["obu", "bsm"]][3]
    assert (a["lat"], a["temp_id"]) == (b["lat"], b["temp_id"])
    assert zones.zone_at(b["lat"] / 1e7, b["lon"] / 1e7) == zones.zone_at(a["lat"] / 1e7, a["lon"] / 1e7) + "-C1"
    nodes = [
        {(n["region"], n["node"]) for n in by_device[f"RSU-S-01{c}", CODE["rsu", "map"]][0]["nodes"]}
        for c in ("", "-C1", "-C2")
    ]
    assert len(nodes[0] | nodes[1] | nodes[2]) == 3 * len(nodes[0])
    assert set(zones.gantries) >= {copy_hex("3A0F01", c) for c in range(3)}


def test_rsus_sets_how_many_copies_there_are(scene: Scene) -> None:
    fleet = Generator(scene, Options(rsus=7, obus=0, duration=1), T0).fleet
    assert fleet.copies == 3
    assert fleet.kinds.count("rsu") == 7
    assert fleet.kinds.count("obu") == 0
    assert Generator(scene, Options(rsus=2, duration=1), T0).fleet.kinds.count("rsu") == 2


def test_unavailable_positions_are_flagged(scene: Scene) -> None:
    run = records(scene, Options(duration=10, gnss=GnssModel(unavailable=0.5)))
    bsm = of(run, "obu", "bsm")
    blind = [r for r, m in bsm if m["flags"] & UNAVAILABLE]
    assert 20 < len(blind) < 80
    assert all((r["lat"] == 900_000_001) == bool(m["flags"] & UNAVAILABLE) for r, m in bsm)


def test_a_bad_device_sends_what_cannot_be_decoded(scene: Scene) -> None:
    steps = build_messages(scene, Options(duration=5, bad=("RSU-S-01", 0.5)), T0)
    spoilt = fine = 0
    for step in steps:
        for i, row in enumerate(step.messages):
            if row["flags"] & SPOILT:
                spoilt += 1
                with pytest.raises(Exception, match="TRUNCATED"):
                    CODEC.decode_mqtt(step.payload(i))
            else:
                fine += row["device"] == 0
                CODEC.decode_mqtt(step.payload(i))
    assert 15 < spoilt < 45
    assert fine > 15


def test_types_choose(scene: Scene) -> None:
    rows = np.concatenate(
        [s.messages for s in build_messages(scene, Options(duration=2, types=frozenset({"rsm"})), T0)]
    )
    assert set(rows["code"]) == {CODE["rsu", "rsm"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(speed=0), "--speed"),
        (Options(scale=0), "--scale"),
        (Options(rsus=0), "--rsus"),
        (Options(offset=60), "--offset"),
        (Options(offset=50, duration=11), "--loop"),
        (Options(duration=-1), "--duration"),
        (Options(speed=2, loop=True), "--duration"),
        (Options(types=frozenset({"rsn"})), "rsn"),
        (Options(scale=40_000), "180 degrees"),
    ],
)
def test_mistakes_are_named(scene: Scene, options: Options, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Generator(scene, options, T0)


def test_more_devices_than_ports_are_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v2x_loadtest.simulate.fleet.MAX_DEVICES", 10)
    with pytest.raises(ConfigError, match="16 devices are more than one process"):
        Generator(scene, Options(scale=2), T0)
