"""`v2x audit`: what became of every message, from the real topics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from v2x_services.paper import paper
from v2x_services.settings import Settings


def audit(
    ledger: Annotated[
        Path | None,
        typer.Option(help="Folder that `v2x simulate` wrote; without it, only sequence gaps are found."),
    ] = None,
    kafka: Annotated[str | None, typer.Option(help="Kafka bootstrap, host:port.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")] = False,
    latency: Annotated[bool, typer.Option(help="Latency of every hop as well (needs the ledger).")] = True,
    standing: Annotated[
        bool, typer.Option("--standing", help="Be a service: audit what comes from now on, with /metrics.")
    ] = False,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder of the service's state, and of the port of /metrics.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
) -> None:
    """Count what was published, acknowledged, in Kafka, dead-lettered and fused. Exit code 1 if anything is lost.

    It reads every record. With --standing it runs until SIGTERM or Ctrl-C, reads what ingest tells each second of what
    it wrote and one partition in full, in turn, and counts sequence numbers that do not come: v2x_audit_lost_total.
    """
    if standing:
        stand(Settings.load(kafka_bootstrap=kafka, state_dir=state_dir, audit_metrics_port=metrics_port))
        return
    from v2x_loadtest.audit.ledger import Ledger  # noqa: PLC0415 - numpy and aiokafka load only when asked for
    from v2x_loadtest.audit.log import read_log  # noqa: PLC0415
    from v2x_loadtest.audit.report import print_audit  # noqa: PLC0415
    from v2x_loadtest.audit.verdict import judge  # noqa: PLC0415
    from v2x_loadtest.latency import measure  # noqa: PLC0415

    settings = Settings.load(kafka_bootstrap=kafka)
    book = Ledger.load(ledger) if ledger is not None else None
    log = asyncio.run(read_log(settings.kafka_bootstrap))
    verdict = judge(log, book)
    measured = measure(log, book) if book is not None and latency else None
    if as_json:
        out = verdict.to_dict()
        if measured is not None:
            out |= {"latency_ms": measured.hops, "age_ms": measured.age}
        typer.echo(json.dumps(out, ensure_ascii=False, indent=2))
    else:
        print_audit(paper(), verdict, measured)
    if verdict.account.lost:
        raise typer.Exit(1)


def stand(settings: Settings) -> None:
    """Run the standing audit."""
    from v2x_loadtest.audit import standing  # noqa: PLC0415
    from v2x_services import log as logs  # noqa: PLC0415
    from v2x_services.running import serve  # noqa: PLC0415

    logs.setup("audit", settings.log_format, settings.log_level)
    serve(lambda stop: standing.run(settings, stop))
