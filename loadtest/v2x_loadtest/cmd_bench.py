"""`v2x bench`: figures that a stranger can get again."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from v2x.errors import ConfigError

from v2x_codecs.registry import Registry
from v2x_services.paper import paper

_MAPS = "Units tell their MAPs too: without them no track has a lane, and the rules of lanes are idle."
_ZONES = "So many copies of the scene (4 km) are one zone; 0: its own zones (2 km)."
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _bench() -> None:
    """Benchmarks: interleaved rounds, median and range, the peer in the same run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # brokers and publishers must not outlive us


@app.command()
def decode(
    schema: Annotated[str, typer.Option(help="Which message.")] = "rsm",
    participants: Annotated[int, typer.Option(min=0, max=255, help="In an RSM.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a page with bars.")] = None,
) -> None:
    """Decode to checked columns, against fastavro."""
    from v2x_loadtest.bench.decode import run  # noqa: PLC0415  (numba is slow to import)
    from v2x_loadtest.bench.harness import as_dict, plot_of, show  # noqa: PLC0415

    if schema not in Registry.load().names:
        raise ConfigError(f"no schema {schema!r}; `v2x schemas list` shows them")
    console = paper(stderr=as_json)
    made = run(schema, participants, rounds, console)
    _out(as_json, plot, lambda: as_dict(made), lambda: plot_of(made))
    if not as_json:
        show(made, console)


@app.command()
def ingest(
    payload: Annotated[str, typer.Option(help="bsm, or rsm (20 participants).")] = "rsm",
    rate: Annotated[float, typer.Option(min=1, help="Messages a second, open loop.")] = 17_000,
    connections: Annotated[int, typer.Option(min=1, max=20_000, help="MQTT connections that publish.")] = 1_700,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each run that count.")] = 10,
    warm: Annotated[float, typer.Option(min=0, help="Seconds before that do not.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    window: Annotated[int, typer.Option(min=100, help="Messages under way, closed loop.")] = 8_192,
    partitions: Annotated[int, typer.Option(min=1, help="Of the Kafka topics.")] = 8,
    peers: Annotated[str, typer.Option(help="all, none, or names with commas.")] = "all",
    adapter: Annotated[list[Path] | None, typer.Option(help="Adapter file of a peer of yours (TOML).")] = None,
    install_peers: Annotated[bool, typer.Option("--install-peers", help="Install what is absent.")] = False,
    closed: Annotated[bool, typer.Option(help="Measure the capacity.")] = True,
    opened: Annotated[bool, typer.Option("--open/--no-open", help="Measure the latency.")] = True,
    durability: Annotated[bool, typer.Option(help="See whether PUBACK waits for Kafka.")] = True,
    pin: Annotated[bool, typer.Option(help="The forwarder on a core of its own, all else on the others.")] = True,
    cores: Annotated[int, typer.Option(min=0, help="Everything on the first so many cores; 0: on all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a page with bars.")] = None,
) -> None:
    """MQTT to Kafka: our ingest and its peers in turns, capacity, latency, CPU, and what a kill loses.

    Latency of ours alone, everything on the same two cores:

      v2x bench ingest --peers none --no-pin --cores 2 --no-closed --no-durability --rate 17000

    and with --rate 100. Any other command takes part by an adapter file:

      name = "my bridge"
      what = "version 2, one worker"
      command = ["my-bridge", "--mqtt", "{mqtt_host}:{mqtt_port}", "--filter", "{filter}", "--kafka", "{kafka}",
      "--topic", "{topic}", "--client-id", "{client_id}"]
      payload = "raw"   (the bytes as they came; or "influx": base64 in a field of a line)
    """
    from v2x_loadtest.bench import ingest_report  # noqa: PLC0415
    from v2x_loadtest.bench.ingest import IngestOptions, run  # noqa: PLC0415
    from v2x_loadtest.bench.peers import chosen  # noqa: PLC0415

    options = IngestOptions(
        payload, rate, connections, seconds, warm, rounds, window, partitions, pin, cores, closed, opened, durability
    )
    console = paper(stderr=as_json)
    picked = chosen(peers, adapter or [])
    for peer in picked if install_peers else ():
        console.print(f"[dim]{peer.name}: {peer.set_up() or 'installed'}[/dim]")
    report = run(options, picked, console)
    _out(as_json, plot, lambda: ingest_report.as_json(report), lambda: ingest_report.plot(report))
    if not as_json:
        ingest_report.show(report, console)


@app.command()
def province(
    rsus: Annotated[int, typer.Option(min=1, help="Roadside units, 10 RSMs a second each.")] = 1_700,
    seconds: Annotated[float, typer.Option(min=1, help="That count.")] = 300,
    warm: Annotated[float, typer.Option(min=0, help="Seconds before that do not.")] = 10,
    participants: Annotated[float, typer.Option(min=0.1, help="An RSM, on average.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Runs, each with brokers of its own.")] = 1,
    partitions: Annotated[int, typer.Option(min=1, help="Of the Kafka topics.")] = 8,
    scene: Annotated[str, typer.Option(help="Scene whose traffic it is.")] = "motorway",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a page with bars.")] = None,
    zone_copies: Annotated[int, typer.Option(min=0, help=_ZONES)] = 0,
    maps: Annotated[bool, typer.Option("--maps", help=_MAPS)] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder for everything; else a temporary one.")] = None,
) -> None:
    """Run a province on this machine: publisher, Mosquitto, Kafka, ingest and fusion; CPU, lag, losses, latency."""
    _flow(
        "Province", [rsus], seconds, warm, participants, rounds, partitions, scene, as_json, plot, zone_copies, keep,
        maps=maps,
    )  # fmt: skip


@app.command()
def e2e(
    rsus: Annotated[str, typer.Option(help="Loads to measure, in RSUs of 10 RSMs a second.")] = "10,250",
    seconds: Annotated[float, typer.Option(min=1, help="Of each run that count.")] = 10,
    warm: Annotated[float, typer.Option(min=0, help="Seconds before that do not.")] = 5,
    participants: Annotated[float, typer.Option(min=0.1, help="An RSM, on average.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; loads take turns.")] = 5,
    partitions: Annotated[int, typer.Option(min=1, help="Of the Kafka topics.")] = 8,
    scene: Annotated[str, typer.Option(help="Scene whose traffic it is.")] = "motorway",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a page with bars.")] = None,
    zone_copies: Annotated[int, typer.Option(min=0, help=_ZONES)] = 0,
) -> None:
    """Publish to Kafka and to the fused track, at several loads in turns."""
    try:
        loads = [int(n) for n in rsus.split(",")]
    except ValueError:
        loads = []
    if not loads or min(loads) < 1:
        raise ConfigError(f"--rsus {rsus!r}: numbers with commas, for instance 10,250")
    _flow("End to end", loads, seconds, warm, participants, rounds, partitions, scene, as_json, plot, zone_copies, None)


@app.command()
def fusion(
    rsus: Annotated[int, typer.Option(min=1, help="Roadside units, 10 RSMs a second each.")] = 140,
    seconds: Annotated[float, typer.Option(min=1, max=60, help="Of stream time.")] = 6,
    participants: Annotated[float, typer.Option(min=0.1, help="An RSM, on average.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Passes that count.")] = 5,
    partitions: Annotated[int, typer.Option(min=1, help="Of the log.")] = 8,
    step: Annotated[int, typer.Option(min=1, help="Milliseconds of the log that the engine takes at once.")] = 50,
    zone_copies: Annotated[int, typer.Option(min=0, help=_ZONES)] = 0,
    scene: Annotated[str, typer.Option(help="Scene whose traffic it is.")] = "motorway",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a page with bars.")] = None,
) -> None:
    """Feed the pure engines with a province's log, without brokers: CPU by observation and by frame."""
    from v2x_loadtest.bench import fusion as bench  # noqa: PLC0415
    from v2x_loadtest.bench.flow import FlowOptions  # noqa: PLC0415

    options = FlowOptions(
        rsus=rsus, participants=participants, scene=scene, partitions=partitions, zone_copies=zone_copies
    )
    made = bench.run(options, seconds, rounds, step, paper(quiet=as_json))
    _out(as_json, plot, lambda: made, lambda: bench.plot(made))


@app.command()
def audit(
    rsus: Annotated[int, typer.Option(min=1, help="Roadside units, 10 RSMs a second each.")] = 400,
    seconds: Annotated[float, typer.Option(min=1, help="Of load.")] = 30,
    participants: Annotated[float, typer.Option(min=0.1, help="An RSM, on average.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Runs, each with brokers of its own.")] = 3,
    partitions: Annotated[int, typer.Option(min=1, help="Of the Kafka topics.")] = 8,
    scene: Annotated[str, typer.Option(help="Scene whose traffic it is.")] = "motorway",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Audit a load all the time, and once in full: CPU of both as shares of ingest's."""
    from v2x_loadtest.bench import audit as bench  # noqa: PLC0415
    from v2x_loadtest.bench.flow import FlowOptions  # noqa: PLC0415

    console = paper(stderr=as_json)
    options = FlowOptions(rsus=rsus, seconds=seconds, participants=participants, scene=scene, partitions=partitions)
    made = bench.run(options, rounds, lambda line: console.print(f"[dim]{line}[/dim]"))
    _out(as_json, None, lambda: bench.as_dict(options, made), str)
    if not as_json:
        bench.show(made, console)


def _flow(
    title: str,
    loads: list[int],
    seconds: float,
    warm: float,
    participants: float,
    rounds: int,
    partitions: int,
    scene: str,
    as_json: bool,
    plot: Path | None,
    zone_copies: int,
    keep: Path | None,
    *,
    maps: bool = False,
) -> None:
    from v2x_loadtest.bench import flow_report  # noqa: PLC0415
    from v2x_loadtest.bench.flow import FlowOptions, FlowReport, run  # noqa: PLC0415

    console = paper(stderr=as_json)
    reports: dict[int, list[FlowReport]] = {n: [] for n in loads}
    for nth in range(rounds):
        for n in loads:
            console.print(f"[dim]run {nth + 1} of {rounds}, {n:,} RSUs[/dim]")
            options = FlowOptions(
                rsus=n, seconds=seconds, warm_s=warm, participants=participants, scene=scene, partitions=partitions,
                zone_copies=zone_copies, types=frozenset({"rsm", "map"} if maps else {"rsm"}),
            )  # fmt: skip
            with tempfile.TemporaryDirectory(prefix="v2x-bench-", ignore_cleanup_errors=True) as temporary:
                folder = (keep or Path(temporary)) / f"run-{nth + 1}-{n}"
                reports[n].append(run(options, folder, lambda line: console.print(f"[dim]{line}[/dim]")))
    groups = list(reports.values())
    everything = [report for group in groups for report in group]
    _out(as_json, plot, lambda: flow_report.as_json(title, everything), lambda: flow_report.plot(title, groups))
    if not as_json:
        for group in groups:
            flow_report.show(title, group, console)


def _out(as_json: bool, plot: Path | None, made: Callable[[], dict[str, Any]], page: Callable[[], str]) -> None:
    """Print the JSON and write the page, as asked for."""
    from v2x_loadtest.bench.plot import write  # noqa: PLC0415

    if as_json:
        print(json.dumps(made(), default=str))
    if plot is not None:
        write(plot, page())
