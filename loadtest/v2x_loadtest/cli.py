"""The command `v2x`: a table of subcommands, each loaded when it is called, so that `v2x --help` is quick.

A mistake of the user (any ``V2XError``) is one red line on stderr and exit code 2. Ctrl-C ends with 130, except for
services, for which it is the clean stop.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any, Final

import typer
import typer.core
import typer.main
from v2x.errors import V2XError

# Name: (module, attribute: a typer.Typer, or the function of a single command; what it does).
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "demo": ("v2x_loadtest.cmd_demo", "demo", "The whole flow on this machine with simulated devices, and an audit"),
    "up": ("v2x_loadtest.cmd_up", "up", "Brokers, topics and services in the foreground, restarted if they die"),
    "simulate": ("v2x_loadtest.cmd_simulate", "simulate", "Replay a recorded scene as roadside and on-board devices"),
    "record": ("v2x_loadtest.cmd_record", "record", "Make the scenes again with SUMO"),
    "ingest": ("v2x_services.cmd_ingest", "ingest", "Take messages from MQTT, check them, write them to Kafka"),
    "fuse": ("v2x_loadtest.cmd_fuse", "fuse", "Fuse observations into tracks, events and link states"),
    "confirm": ("v2x_services.cmd_confirm", "confirm", "Tell devices which of their reliable messages are durable"),
    "tail": ("v2x_loadtest.cmd_tail", "tail", "Watch events, tracks or links, with the latency of every hop"),
    "topics": ("v2x_loadtest.cmd_topics", "app", "Make and check the Kafka topics"),
    "audit": ("v2x_loadtest.cmd_audit", "audit", "Count what was sent, acknowledged, in Kafka, fused, lost, repeated"),
    "score": ("v2x_loadtest.cmd_score", "score", "How well fusion does, against truth and against other trackers"),
    "schemas": ("v2x_services.cmd_schemas", "app", "List, show and check the Avro schemas"),
    "deadletter": ("v2x_loadtest.cmd_deadletter", "app", "List, show, replay and drop what could not be taken in"),
    "chaos": ("v2x_loadtest.cmd_chaos", "chaos", "Faults under load, one by one, and an audit as the verdict of each"),
    "soak": ("v2x_loadtest.cmd_soak", "soak", "A long run with a random fault every minute; memory, lag and an audit"),
    "bench": ("v2x_loadtest.cmd_bench", "app", "Figures that a stranger can get again"),
    "schedules": (
        "v2x_loadtest.cmd_schedules",
        "schedules",
        "Ingest and fusion under random faults on a virtual clock",
    ),
    "fuzz": ("v2x_loadtest.cmd_fuzz", "fuzz", "Mistaken input for what takes input from outside"),
    "config": ("v2x_loadtest.cmd_config", "config", "Show the settings in force and where each came from"),
}


class LazyGroup(typer.core.TyperGroup):
    """Knows its commands by name and help; imports the one that is called."""

    _called = ""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names in the table's order."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Remember which command is really called."""
        self._called = args[0] if args else ""
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is 130 as in a shell, a closed pipe (`v2x tail | head`) is no mistake."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return the command that is called; of the others a stub with their help."""
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, attribute, help_ = row
        if cmd_name != self._called:
            return typer.core.TyperCommand(cmd_name, help=help_)
        found = getattr(_load(cmd_name, module), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


def _load(name: str, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        if e.name == module:
            raise V2XError(f"this installation has no `v2x {name}`") from e
        raise V2XError(
            f"`v2x {name}` needs the Python package {e.name}, which is not installed: run ./scripts/setup, or "
            f"pip install 'v2x-core[score,record]'"
        ) from e


root = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@root.callback()
def _root() -> None:
    """Messaging core of a connected-vehicle pilot zone: MQTT in, one true picture of the road out."""


def main() -> None:
    """Run `v2x`."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, our errors say in one line
    try:
        typer.main.get_command(root)(prog_name="v2x")
    except V2XError as e:
        typer.secho(f"v2x: {e}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)


if __name__ == "__main__":
    main()
