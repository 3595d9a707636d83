"""The demo's small parts: what is shown, and what is read from the services."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from v2x_loadtest.demo.scrape import sums
from v2x_loadtest.demo.screen import Screen, Status, event_line
from v2x_loadtest.demo.tail import EventTail, Seen

T0 = 1_700_000_000_000


def event(**given: Any) -> dict[str, Any]:
    return {
        "event_id": "e",
        "revision": 0,
        "status": "ADDED",
        "kind": "STOPPED_VEHICLE",
        "code": 903,
        "level": 2,
        "queue": 65535,
        "link": "M-E",
        "lane": 2,
        "zone": "Z1",
        "lat": 315_000_000,
        "lon": 1_203_000_000,
        "start_ms": T0 + 10_000,
        "detected_ms": T0 + 15_000,
        "end_ms": 0,
        "trigger_ts_ms": T0 + 15_000,
        "trigger_rx_us": (T0 + 15_030) * 1000,
        "trigger_stamp_ms": T0 + 15_035,
        **given,
    }


def test_an_event_is_told_with_its_delay_and_every_hop() -> None:
    line = event_line(Seen(event(), T0 + 15_080), T0).plain
    assert "15.08 s ● ADDED" in line
    assert "STOPPED_VEHICLE 903 level 2" in line
    assert "M-E lane 2" in line
    assert "began 5.0 s ago, told 0.08 s after" in line
    assert "road→ingest 30 →Kafka 5 →event 45 ms" in line


def test_an_event_of_a_tick_has_no_hops_and_an_end_has_its_length() -> None:
    ended = event(status="ENDED", end_ms=T0 + 22_500, trigger_rx_us=0, lane=0, code=0)
    line = event_line(Seen(ended, T0 + 23_000), T0).plain
    assert "lasted 12.5 s" in line
    assert "→Kafka" not in line
    assert "lane" not in line


def test_the_tail_shows_each_revision_once() -> None:
    shown: list[Seen] = []
    tail = EventTail("", shown.append)
    for revision in (0, 1, 0, 1):
        tail.take(Seen(event(revision=revision), T0))
    assert [seen.value["revision"] for seen in shown] == [0, 1]
    assert tail.copies == 2
    assert tail.events["e"].value["revision"] == 1


def test_without_a_terminal_the_screen_prints_lines() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=300)) as screen:
        screen.status = Status("running", 12.0, 60.0, published=1234, in_kafka=1200)
        screen.event(Seen(event(), T0 + 15_080))
        screen.event(Seen(event(status="MODIFIED", revision=1), T0 + 15_080))
        screen.refresh()
        screen.refresh()  # not again within ten seconds
    text = out.getvalue()
    assert text.count("published 1,234") == 1
    assert "12/60 s" in text
    assert text.count("STOPPED_VEHICLE") == 1
    assert screen.updates == 1


def test_sums_over_series() -> None:
    text = '# HELP a b\na_total{x="1",y="} 2"} 3.0\na_total{x="2",y=""} 4\nb 1e3\n\nc NaN\n'
    got = sums(text.splitlines())
    assert (got["a_total"], got["b"]) == (7, 1000)
