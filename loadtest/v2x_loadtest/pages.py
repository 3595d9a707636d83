"""Reference pages made from the tables in the code, so that a fact has one place (`scripts/docs` writes them)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from v2x.deadletters import CATALOGUE as REASONS
from v2x.events.catalogue import RULES, TRACK_LIMITS, Limit, Rule
from v2x.topics import KAFKA_TOPICS, UPLINKS, MessageClass, uplink_topic

from v2x_codecs.differences import DIFFERENCES
from v2x_codecs.registry import Registry, walk_fields
from v2x_loadtest.planted import HOURS
from v2x_loadtest.scene import load_scene
from v2x_services.catalogue import CATALOGUE as METRICS
from v2x_services.catalogue import LAWS

_DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
_FAULTS_BEGIN: Final = (
    "<!-- made by scripts/docs from docs/faults.json, which `v2x chaos --json` writes; do not edit -->"
)
_FUZZ_BEGIN: Final = "<!-- made by scripts/docs from docs/fuzz.json, which `v2x fuzz --record` writes; do not edit -->"
_MADE_END: Final = "<!-- end of what is made -->"
_MADE: Final = "<!-- made by scripts/docs from the tables in the code; do not edit -->\n\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _limit(name: str, limit: Limit) -> tuple[str, str, str]:
    return f"`{name}`", f"{limit.value:g} {limit.unit}".strip(), limit.source


def _rule(rule: Rule) -> str:
    text = f"## {rule.kind}" + (f", GB/T 29100 code {rule.code}" if rule.code else ", no GB/T 29100 code")
    text += f"\n\n{rule.what}. Level: {rule.level_rule}. Confidence of our own detection: {rule.confidence / 2:g} %.\n"
    if not rule.limits:
        return text + f"\nNot detected by fusion: others report it (RSI). Tests: {rule.tests}.\n"
    text += f"\nBegins after {rule.dwell_ms / 1000:g} s, ends after {rule.end_ms / 1000:g} s without it"
    if rule.lost_ms:
        text += f" (or {rule.lost_ms / 1000:g} s unseen)"
    if rule.cooldown_ms:
        text += f"; then silent for {rule.cooldown_ms / 1000:g} s for the same track"
    text += f". Reports within {rule.merge_m:g} m are the same incident"
    text += f", as are {_others(rule)}" if _others(rule) else ""
    text += f". Tests: {rule.tests}. {_scored(rule.kind)}.\n\n"
    return text + _table(("threshold", "value", "source"), (_limit(n, v) for n, v in rule.limits.items()))


@cache
def _recorded() -> dict[str, frozenset[str]]:
    """Return the kinds that each recorded scene requires."""
    return {
        name: frozenset(e.kind for e in load_scene(name).events if "optional" not in e.details)
        for name in ("motorway", "urban")
    }


def _scored(kind: str) -> str:
    """Say what a kind is scored by; the planted scene has whatever fusion detects, but for what takes hours."""
    if kind in HOURS:
        return f"Scored by `{HOURS[kind]}`"
    scenes = [*(name for name, kinds in _recorded().items() if kind in kinds), "planted"]
    return f"Scenes of `v2x score`: {', '.join(scenes)}"


def _others(rule: Rule) -> str:
    """Return the kinds that a kind is one incident with."""
    return " and ".join(other.kind for other in RULES if other.group == rule.group and other is not rule)


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def events_page() -> str:
    """Return docs/events.md."""
    text = "# The event catalogue\n\n" + _MADE
    text += "What a track must be before any rule looks at it:\n\n"
    text += _table(("threshold", "value", "source"), (_limit(n, v) for n, v in TRACK_LIMITS.items()))
    return text + "\n" + "\n".join(_rule(rule) for rule in RULES)


def reference_page() -> str:
    """Return docs/reference.md."""
    text = "# Reference: topics, dead letters, decoding, metrics\n\n" + _MADE + "## MQTT uplinks\n\n"
    text += _table(
        ("topic", "schema", "class", "Kafka topic"),
        (
            (f"`{uplink_topic(u.kind, '{id}', u.type)}`", u.schema, MessageClass(u.message_class).name.lower(), u.kafka)
            for u in UPLINKS
        ),
    )
    text += "\n## Kafka topics\n\n"
    text += _table(
        ("topic", "what", "kept"),
        (
            (t.name, t.what, "latest per key" if t.compacted else f"{t.retention_ms / 3_600_000:g} h")
            for t in KAFKA_TOPICS
        ),
    )
    text += "\n## What a link state says\n\n[sections.md](sections.md) says how it is found.\n\n"
    text += _table(("field", "unit", "unavailable", "meaning"), _fields("link_state"))
    text += "\n## Reasons of dead letters\n\n"
    text += _table(("reason", "meaning"), ((reason.label, meaning) for reason, meaning in REASONS.items()))
    text += "\n## What fastavro takes and the decoder refuses\n\n"
    text += "Each row is tested with its example, a record of the one field `v`; `v2x schemas fuzz` looks for more.\n\n"
    text += _table(
        ("what", "verdict", "example: type, body in hex", "fastavro's value"),
        (
            (d.name, d.verdict.name, f"`{json.dumps(d.field)[1:-1]}`, `{_short(d.body.hex())}`", f"`{d.theirs}`")
            for d in DIFFERENCES
        ),
    )
    text += "\n## Metrics\n\n"
    text += _table(
        ("metric", "type", "unit", "labels", "meaning"),
        ((f"`{m.name}`", m.type, m.unit, ", ".join(m.labels), m.help) for m in METRICS),
    )
    text += "\nWhat must balance at every moment:\n\n"
    return text + "".join(
        f"* {law.name}: `{law.inflow}` = {' + '.join(f'`{part}`' for part in law.outflow)}\n" for law in LAWS
    )


def _fields(schema: str) -> Iterable[tuple[str, str, object, str]]:
    for path, item in walk_fields(Registry.load().get(schema).raw):
        yield f"`{path}`", item.get("unit", ""), item.get("unavailable", ""), item["doc"]


def guarantees_page() -> str:
    """Return docs/guarantees.md with the kept tables of `v2x chaos` and `v2x fuzz`; the rest is by hand."""
    from v2x_loadtest.chaos.report import markdown as faults  # noqa: PLC0415 - loads numba
    from v2x_loadtest.fuzz.record import markdown as fuzz  # noqa: PLC0415

    text = (_DOCS / "guarantees.md").read_text("utf-8")
    text = _filled(text, _FAULTS_BEGIN, faults(json.loads((_DOCS / "faults.json").read_bytes())))
    return _filled(text, _FUZZ_BEGIN, fuzz(json.loads((_DOCS / "fuzz.json").read_bytes())))


def _filled(text: str, begin: str, table: str) -> str:
    """Return a page with a table in its place."""
    before, begin, rest = text.partition(begin)
    _, end, after = rest.partition(_MADE_END)
    return f"{before}{begin}\n\n{table}\n{end}{after}"


PAGES: Final = {"events.md": events_page, "reference.md": reference_page, "guarantees.md": guarantees_page}


def main() -> None:
    """Write the pages into the folder named (default: docs)."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, page in PAGES.items():
        (root / name).write_text(page(), encoding="utf-8")
        print(f"wrote {root / name}")


if __name__ == "__main__":
    main()
