"""The score as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from v2x_loadtest.score import Score


def print_score(console: Console, score: Score) -> None:
    """Print figures, then by name what was missed, invented, told twice, and what could not be judged."""
    console.print(_figures(score))
    events = score.events
    for match in events.matches:
        as_ = "" if match.kind == match.truth.kind else f" (told as {match.kind})"
        console.print(
            Text(
                f"  found    {match.truth.id}: {match.truth.kind}{as_}, {match.distance_m:.0f} m off, "
                f"{match.delay_s:+.2f} s after its dwell",
                style="green",
            )
        )
    for event in events.missed:
        when = f"from second {event.start_s:.1f}"
        console.print(
            Text(f"  missed   {event.id}: {event.kind} on {event.link} lane {event.lane}, {when}", style="red")
        )
    for told in events.invented:
        brief = told.brief(score.ledger)
        where = f"on {brief['link']} lane {brief['lane']}"
        console.print(
            Text(f"  invented {told.id}: {'/'.join(told.kinds)} {where}, second {brief['start_s']}", style="red")
        )
    for told, event in events.repeated:
        console.print(
            Text(f"  repeated {told.id}: {'/'.join(told.kinds)}, a second telling of {event.id}", style="red")
        )
    for event, why, was_told in events.apart:
        console.print(Text(f"  apart    {event.id}: {event.kind}: {why}{' (told all the same)' if was_told else ''}"))
    for told, event in events.stages:
        console.print(Text(f"  stage    {told.id}: {'/'.join(told.kinds)} of {event.id} ({event.kind})"))
    for told in events.reported:
        console.print(Text(f"  reported {told.id}: {'/'.join(told.kinds)} by devices; the scene knows no truth of it"))


def _figures(score: Score) -> Table:
    events, tracks, travel = score.events, score.tracks, score.travel
    table = Table(title="Score against the scene's truth", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    found = f"{len(events.matches)} found, {len(events.missed)} missed"
    wrong = f"{len(events.invented)} invented, {len(events.repeated)} repeated"
    table.add_row("event recall", _text(events.recall, ".3f"), found)
    table.add_row("event precision", _text(events.precision, ".3f"), wrong)
    table.add_row("event delay after dwell, p50", _text(events.delay_p50_s, ".2f", " s"), "")
    table.add_row("position RMSE", _text(tracks.position_rmse_m, ".2f", " m"), "pairs within 5 m")
    objects = f"{tracks.samples} instants, {tracks.objects:,} objects, {tracks.unique_objects} different"
    table.add_row("MOTA (motmetrics)", _text(tracks.mota, ".4f"), objects)
    table.add_row("IDF1", _text(tracks.idf1, ".4f"), f"{tracks.misses:,} misses, {tracks.false_positives:,} false")
    table.add_row("id switches", _text(tracks.id_switches, "d"), "")
    parts = f"a frame: {_text(tracks.gospa_missed, '.2f')} missed, {_text(tracks.gospa_false, '.2f')} false"
    table.add_row("GOSPA (p 2, c 5 m)", _text(tracks.gospa_m, ".2f", " m"), parts)
    windows = f"{len(travel.windows)} windows, {sum(travel.pairs_by_section().values())} vehicles"
    table.add_row("travel time MAPE", _text(travel.mape, ".2f", " %"), windows)
    return table


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
