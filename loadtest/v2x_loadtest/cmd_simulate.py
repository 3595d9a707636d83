"""``v2x simulate``: replay a scene as the devices of the road."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from v2x.errors import ConfigError

from v2x_loadtest.simulate.options import GnssModel, LinkModel, Options, SensorModel
from v2x_loadtest.simulate.run import BEHIND_MS, Progress, Run, Summary


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; ConfigError if it is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"--mqtt {text!r} is not HOST:PORT, for instance 127.0.0.1:1883")
    return host.strip("[]"), int(port)


def parse_bad(text: str | None) -> tuple[str, float] | None:
    """Return device and share of DEVICE=SHARE; ConfigError if it is none."""
    if text is None:
        return None
    device, _, share = text.rpartition("=")
    with suppress(ValueError):
        if device and 0 <= float(share) <= 1:
            return device, float(share)
    raise ConfigError(f"--bad {text!r} is not DEVICE=SHARE, for instance RSU-M-01=0.5")


def progress_line(p: Progress) -> str:
    """Return what is said each second (rich markup)."""
    late = f"late p99 {p.late_ms:.1f} ms"
    if p.late_ms > BEHIND_MS:
        late = f"[red]behind: {late}[/red]"
    down = p.devices - p.connected
    lost = f" · [red]{down} without connection[/red]" if down else ""
    return (
        f"[dim]{p.elapsed_s:6.1f} s[/dim] scene {p.scene_s:6.1f} · {p.rate:,.0f}/s · published {p.published:,} · "
        f"acknowledged {p.acknowledged:,} · in flight {p.in_flight:,} · {late}{lost}"
    )


def summary_lines(s: Summary) -> list[str]:
    """Return what is said at the end (rich markup)."""
    late = f"late p50 {s.late_p50_ms:.1f}, p99 {s.late_p99_ms:.1f}, max {s.late_max_ms:.1f} ms"
    if s.behind:
        late = f"[red]fell behind: {late}[/red]"
    missing = f"[red]{s.unacknowledged:,} not[/red]" if s.unacknowledged else "all"
    copies = "1 copy" if s.copies == 1 else f"{s.copies} copies"
    end = f", {s.reconnects:,} reconnects" if s.reconnects else ""
    end += ", interrupted" if s.interrupted else ""
    return [
        f"[bold]{s.scene}[/bold]: {s.devices:,} devices ({s.rsus:,} RSUs, {copies}), {s.seconds:.1f} s{end}",
        f"published {s.published:,} ({s.rate:,.0f}/s), acknowledged {s.acknowledged:,} ({missing})",
        f"repeats {s.repeats:,}, sent again {s.resent:,}, refused {s.refused:,}, given up {s.given_up:,}",
        f"reliable {s.kept:,}: confirmed {s.confirmed:,}, sent again {s.sent_again:,}, not confirmed {s.unconfirmed:,}",
        f"{late}; CPU {s.cpu_us_per_message:.1f} µs a message",
    ]


async def _run(run: Run) -> Summary:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    return await run.run()


def simulate(
    scene: Annotated[str, typer.Option(help="Scene that comes with the project, or a path to an .npz.")] = "motorway",
    mqtt: Annotated[str, typer.Option(help="Broker, HOST:PORT.", metavar="HOST:PORT")] = "127.0.0.1:1883",
    duration: Annotated[float | None, typer.Option(help="Seconds to run; default: to the end of the scene.")] = None,
    offset: Annotated[float, typer.Option(help="Scene second to start at.")] = 0.0,
    speed: Annotated[float, typer.Option(help="Pace; above 1 event time starts in the past and ends at now.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again when the scene is over.")] = False,
    scale: Annotated[int, typer.Option(help="Copies of the scene side by side.")] = 1,
    rsus: Annotated[
        int | None, typer.Option("--rsus", "--limit", help="At most so many RSUs; copies are added for more.")
    ] = None,
    obus: Annotated[int | None, typer.Option(help="At most so many OBUs in each copy.")] = None,
    types: Annotated[str | None, typer.Option(help="Only these message types, e.g. rsm,bsm.")] = None,
    seed: Annotated[int, typer.Option(help="Of sensors, clocks and links (the traffic is the scene's).")] = 1,
    ledger: Annotated[Path | None, typer.Option(help="Folder for the account of what was sent.")] = None,
    occlusion: Annotated[bool, typer.Option("--occlusion", help="Lorries shadow what is behind them.")] = False,
    duplicates: Annotated[float, typer.Option(help="Share of messages that are sent twice.")] = 0.01,
    unavailable: Annotated[float, typer.Option(help="Share of OBU messages without a position.")] = 0.0,
    bad: Annotated[
        str | None, typer.Option(help="Cut short a share of one device's messages.", metavar="DEVICE=SHARE")
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Devices keep reliable messages until they are confirmed.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")] = False,
) -> None:
    """Replay a recorded scene as RSUs, OBUs, gantries, poles and piles, each with its own MQTT connection."""
    from v2x_loadtest.scene import load_scene  # noqa: PLC0415 - `v2x --help` need not read scenes

    host, port = parse_endpoint(mqtt)
    options = Options(
        host=host,
        port=port,
        duration=duration,
        offset=offset,
        speed=speed,
        loop=loop,
        scale=scale,
        rsus=rsus,
        obus=obus,
        types=frozenset(types.split(",")) if types else None,
        seed=seed,
        ledger=ledger,
        sensors=SensorModel(occlusion=occlusion),
        gnss=GnssModel(unavailable=unavailable),
        link=LinkModel(duplicate=duplicates),
        bad=parse_bad(bad),
        confirm=confirm,
    )
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    run = Run(load_scene(scene), options, None if quiet else lambda p: console.print(progress_line(p)))
    summary = uvloop.run(_run(run))
    if as_json:
        print(json.dumps(summary.as_dict()))
    else:
        for line in summary_lines(summary):
            console.print(line)
