"""Snapshots are taken one at a time, and each partition has its turn."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.unit.test_fusion_stage import LABEL, build, log

from v2x_services.fusion.saving import Place, Saver
from v2x_services.fusion.snapshots import SnapshotStore


async def settled(saver: Saver) -> None:
    for task in list(saver._saving):
        await task


async def test_one_copy_is_held_at_a_time_and_each_partition_has_its_turn(tmp_path) -> None:
    places, sinks = [], []
    for number in range(4):
        stage, sink, steps, metrics = build({})
        await sink.start(steps.done)
        sink.hold()
        stage.step(log(10))
        store = SnapshotStore(tmp_path / str(number))
        places.append(Place(stage, store, replace(LABEL, partition=number), time.monotonic(), (0, {})))
        sinks.append(sink)
    saver = Saver(60.0, metrics)
    saver.look(places)
    saver.look(places)
    assert [place.pending is not None for place in places] == [True, False, False, False]  # its outputs are not out
    for sink in sinks:
        sink.release()
        await sink.drain()
    for turn in range(4):
        saver.look(places)
        assert len(saver._saving) == 1
        saver.look(places)
        assert all(place.pending is None for place in places)  # while one is written none is taken
        await settled(saver)
        assert [bool(list((tmp_path / str(n)).glob("*.snap*"))) for n in range(4)] == [n <= turn for n in range(4)]
        saver.look(places)
    await saver.stop()
    for place in places:
        place.store.close()


async def test_one_whose_outputs_are_not_taken_holds_nobody_up_for_long(tmp_path) -> None:
    stuck, sink, steps, metrics = build({})
    await sink.start(steps.done)
    sink.hold()
    other, free, more, _ = build({})
    await free.start(more.done)
    places = []
    for number, stage in enumerate((stuck, other)):
        stage.step(log(10))
        store = SnapshotStore(tmp_path / str(number))
        places.append(Place(stage, store, replace(LABEL, partition=number), time.monotonic(), (0, {})))
    await free.drain()
    saver = Saver(0.05, metrics)
    saver.look(places)
    assert (places[0].pending is not None, places[1].pending is not None) == (True, False)
    time.sleep(0.06)  # noqa: ASYNC251 - nothing else is to run
    saver.look(places)
    assert places[1].pending is not None
    saver.look(places)
    await settled(saver)
    assert list((tmp_path / "1").glob("*.snap*"))
    assert not list((tmp_path / "0").glob("*.snap*"))
    await saver.stop()
    for place in places:
        place.store.close()
