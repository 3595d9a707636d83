"""The score as tables for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from v2x_loadtest.score import kinds
from v2x_loadtest.score.bars import EVENTS, TRACKS, Mean, Verdict, mean_of
from v2x_loadtest.score.baselines import BASELINES
from v2x_loadtest.score.run import Part

OURS = "v2x"


def tracker_name(name: str) -> str:
    """Return how a tracker is called in tables."""
    return OURS if name == "ours" else BASELINES[name][0]


def mark(verdict: Verdict) -> tuple[str, str]:
    """Return a verdict in words, and its style."""
    if verdict.reached is None:
        return f"not judged: {verdict.why}", "yellow"
    note = f" ({verdict.why})" if verdict.why else ""
    return ("pass" if verdict.reached else "FAIL") + note, "green" if verdict.reached else "red"


def print_part(console: Console, part: Part) -> None:
    """Print a scene's figures, bars and baselines, then by name what was missed, invented and told twice."""
    seeds = ", ".join(map(str, part.seeds)) if len(part.seeds) < 6 else f"{part.seeds[0]}-{part.seeds[-1]}"
    table = Table(
        title=f"{part.title}; seeds {seeds}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1),
        caption="mean over the seeds (95 % interval)" if len(part.seeds) > 1 else "one seed: no interval",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("")
    trackers = ["ours", *(name for name in part.trackers if name != "ours")]
    for name in trackers:
        table.add_column(tracker_name(name), justify="right", no_wrap=name == "ours")
    table.add_column("bar")
    table.add_column("")
    verdicts = part.verdicts()
    for figure in (*TRACKS, *EVENTS):
        means = [mean_of(part.trackers[name], figure.name) for name in trackers]
        bars = [v for v in verdicts if v.bar.figure == figure.name]
        if means[0] is None and not bars:
            continue
        # Others without their intervals, or the table would be too wide; the page and the JSON have them.
        cells = [_cell(m, figure.digits, whole=nth == 0) for nth, m in enumerate(means)]
        row = [Text(f"{figure.what}{', ' + figure.unit if figure.unit else ''}"), *map(Text, cells)]
        marks = [mark(v) for v in bars]
        row.append(Text("; ".join(v.bar.text for v in bars)))
        row.append(Text("; ".join(m[0] for m in marks), style=marks[0][1] if marks else ""))
        table.add_row(*row)
    console.print(table)
    if part.kinds:
        by_kind = Table(
            title="events by kind, all seeds together (95 % intervals)", title_justify="left", box=SIMPLE_HEAD
        )
        for nth, head in enumerate(kinds.HEADS):
            by_kind.add_column(head, justify="right" if nth else "left", no_wrap=True)
        for cells_of_kind in kinds.rows(part.kinds):
            by_kind.add_row(*cells_of_kind)
        console.print(by_kind)
    for told in part.told:
        console.print(
            Text(
                f"  {told['verdict']:<10} {told['kind']} on {told['link'] or 'no link'} lane {told['lane']}, second "
                f"{told['start_s']:.1f} (seed {told['seed']}, {told['id']})",
                style="red",
            )
        )


def _cell(mean: Mean | None, digits: int, *, whole: bool) -> str:
    if mean is None:
        return "–"
    return mean.show(digits) if whole else f"{mean.mean:.{digits}f}"
