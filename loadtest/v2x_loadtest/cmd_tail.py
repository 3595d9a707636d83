"""`v2x tail events|tracks|links`: what fusion makes, as it comes, by the reader's rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from v2x_loadtest.options import AsJson, Config, KafkaAt


class What(StrEnum):
    """What to watch."""

    EVENTS = "events"
    TRACKS = "tracks"
    LINKS = "links"


_COLOURS: Final = {"ADDED": "red", "MODIFIED": "yellow", "ENDED": "green"}
_UNAVAILABLE_LAT: Final = 900_000_001


def tail(
    what: Annotated[What, typer.Argument(help="What to watch.")] = What.EVENTS,
    config: Config = None,
    kafka: KafkaAt = None,
    as_json: AsJson = False,
    last: Annotated[int, typer.Option(help="Begin with so many records of each partition.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Begin with all records that there are.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End at what is the end now.")] = False,
) -> None:
    """Watch events (with the latency of every hop), track frames or link states. Ctrl-C ends it."""
    from v2x_services.settings import Settings  # noqa: PLC0415

    settings = Settings.load(config, kafka_bootstrap=kafka)
    asyncio.run(_tail(settings.kafka_bootstrap, what, None if everything else last, to_end=once, as_json=as_json))


async def _tail(bootstrap: str, what: What, last: int | None, *, to_end: bool, as_json: bool) -> None:
    from v2x_codecs.reference import ReferenceCodec  # noqa: PLC0415  (a second of imports that --help need not pay)
    from v2x_codecs.registry import Registry  # noqa: PLC0415
    from v2x_services.follow import follow  # noqa: PLC0415
    from v2x_services.reader import Once  # noqa: PLC0415

    codec, once = ReferenceCodec(Registry.load()), Once()
    async for message in follow(bootstrap, [f"v2x.{what}"], last=last, to_end=to_end):
        name, record = codec.decode_kafka(message.value)
        if not once(name, record):
            continue
        if as_json:
            extra = {"stamp_ms": message.timestamp, "latency_ms": hops(record, message.timestamp)}
            typer.echo(json.dumps({**record, **extra}, ensure_ascii=False))
        else:
            typer.echo(LINES[what](record, message.timestamp))


def hops(record: Mapping[str, Any], stamp_ms: int) -> dict[str, float]:
    """Return the latency of every hop in ms; of an event that a tick made, only what there is.

    ``stamp_ms`` is the output record's own: when Kafka had it.
    """
    if "trigger_stamp_ms" not in record:
        return {"age": stamp_ms - record.get("event_ms", record.get("to_ms", stamp_ms))}
    found: dict[str, float] = {}
    sent, received, stamped = record["trigger_ts_ms"], record["trigger_rx_us"] / 1000, record["trigger_stamp_ms"]
    if sent and received:
        found["device→ingest"] = round(received - sent, 1)
    if received:
        found["ingest→Kafka"] = round(stamped - received, 1)
    found["Kafka→fused"] = stamp_ms - stamped
    if sent:
        found["total"] = stamp_ms - sent
    return found


def event_line(event: Mapping[str, Any], stamp_ms: int) -> str:
    """Return an event for a human."""
    status = typer.style(f"{event['status']:<8}", fg=_COLOURS.get(event["status"]))
    lane = f" lane {event['lane']}" if event["lane"] else ""
    where = f"{event['link'] or event['zone']}{lane}"
    at = "position unknown"
    if event["lat"] != _UNAVAILABLE_LAT:
        at = f"{event['lat'] / 1e7:.6f},{event['lon'] / 1e7:.6f}"
    details = [f"level {event['level']}"] if event["level"] else []
    if event["speed"] != 8191:
        details.append(f"{event['speed'] * 0.02 * 3.6:.0f} km/h")
    if event["queue"] != 65535:
        details.append(f"queue {event['queue']} m")
    details.append(f"by {', '.join(sorted({s['device'] for s in event['sources']})) or 'fusion'}")
    return (
        f"{clock(event['updated_ms'])} {status} {event['kind']:<16} {event['code'] or '-':>4} {where} {at} "
        f"{' · '.join(details)} {typer.style(_hops_text(event, stamp_ms), dim=True)}"
    )


def frame_line(frame: Mapping[str, Any], stamp_ms: int) -> str:
    """Return a track frame for a human."""
    n = len(frame["track"])
    speed = f"mean {sum(frame['speed']) / n * 0.02 * 3.6:.0f} km/h" if n else "empty"
    sigma = f"σ {sum(frame['pos_sigma']) / n / 100:.2f} m" if n else ""
    return f"{clock(frame['event_ms'])} {frame['zone']:<12} {n:>5} tracks {speed} {sigma} {_hops_text(frame, stamp_ms)}"


def link_line(link: Mapping[str, Any], stamp_ms: int) -> str:
    """Return a link state for a human."""
    speed = "-" if link["speed"] == _NO_SPEED else f"{link['speed'] * 0.036:.1f} km/h"
    travel = f"{link['travel_time'] / 1000:.1f} s" if link["travel_time"] else "-"
    details = [f"level {link['level']}", f"from {link['vehicles']} vehicles ({link['rejected']} left out)"]
    if link["service"]:
        details.append(f"service {link['service']} at {link['flow']} veh/h")
    if link["fused_from"] > 1:
        sd = link["fused_speed_sd"] * 0.036
        details.append(f"with tracks {link['fused_speed'] * 0.036:.1f} ± {sd:.1f} km/h")
    if link["forecast_ms"]:
        low, middle, high = (link[name] / 1000 for name in ("forecast_low", "forecast", "forecast_high"))
        details.append(f"next 5 min {middle:.1f} s ({low:.1f} to {high:.1f})")
    return (
        f"{clock(link['to_ms'])} {link['link']:<28} {link['origin']:<6} {travel:>8} {speed:>10} "
        f"{' · '.join(details)} {_hops_text(link, stamp_ms)}"
    )


_NO_SPEED: Final = 65535
LINES: Final = {What.EVENTS: event_line, What.TRACKS: frame_line, What.LINKS: link_line}


def clock(ms: int) -> str:
    """Return the UTC time of day."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def _hops_text(record: Mapping[str, Any], stamp_ms: int) -> str:
    return "[" + " · ".join(f"{name} {ms:.0f} ms" for name, ms in hops(record, stamp_ms).items()) + "]"
