"""The score as one page: tables, error over time, trajectories over truth, events on a time line.

Everything is in the file: no script, no font, nothing to load. Plots are of the first seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

import numpy as np

from v2x_loadtest.bench.plot import STYLE
from v2x_loadtest.score import kinds
from v2x_loadtest.score.bars import EVENTS, TRACKS, mean_of
from v2x_loadtest.score.case_run import CaseScore
from v2x_loadtest.score.figures import Trace
from v2x_loadtest.score.run import Part
from v2x_loadtest.score.table import mark, tracker_name

_COLOURS: Final = ("#0b6e4f", "#d17a22", "#3d5a98", "#8d5a97")  # ours first
_HUES: Final = ("#0b6e4f", "#3d5a98", "#8d5a97", "#d17a22", "#1f8fb3", "#a23b3b", "#6b8e23")
_TRUTH, _BAD = "#b8b8b8", "#b00020"
_WIDTH: Final = 860
_HEIGHT: Final = 220
_LEFT: Final = 60
_ROW: Final = 20
_NAMES: Final = 250  # px for the names of events
_OVERVIEW_S: Final = 20.0
_ZOOM_M: Final = 160.0
_ZOOM_S: Final = 8.0
_MORE: Final = """
table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.pass{color:#0b6e4f}.fail{color:#b00020;font-weight:bold}
.open{color:#8a6d00}.scroll{overflow-x:auto}
"""


def page(parts: Sequence[Part]) -> str:
    """Return the whole page."""
    title = "Fusion against truth"
    body = [f"<h1>{title}</h1>"]
    body.append(
        '<p class="note">Means over the seeds with 95 % intervals (Student\'s t); every tracker had the same inputs. '
        "What is measured and how: docs/accuracy.md.</p>"
    )
    for part in parts:
        body += [f"<h2>{escape(part.title)}</h2>", _table(part)]
        if part.kinds:
            body.append(_kinds(part))
        if part.first is not None:
            body += _plots(part.first)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}{_MORE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(part: Part) -> str:
    trackers = ["ours", *(name for name in part.trackers if name != "ours")]
    head = "".join(f"<th>{escape(x)}</th>" for x in ("", *map(tracker_name, trackers), "bar", ""))
    verdicts = part.verdicts()
    rows = []
    for figure in (*TRACKS, *EVENTS):
        means = [mean_of(part.trackers[name], figure.name) for name in trackers]
        bars = [v for v in verdicts if v.bar.figure == figure.name]
        if means[0] is None and not bars:
            continue
        cells = [figure.what + (f", {figure.unit}" if figure.unit else "")]
        cells += [m.show(figure.digits) if m is not None else "–" for m in means]
        cells.append("; ".join(v.bar.text for v in bars))
        text = "".join(f"<td>{escape(c)}</td>" for c in cells)
        marks = "; ".join(
            f'<span class="{"open" if v.reached is None else "pass" if v.reached else "fail"}">{escape(mark(v)[0])}'
            "</span>"
            for v in bars
        )
        rows.append(f"<tr>{text}<td>{marks}</td></tr>")
    seeds = ", ".join(map(str, part.seeds))
    return f'<p class="note">Seeds {seeds}.</p><div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _kinds(part: Part) -> str:
    head = "".join(f"<th>{escape(x)}</th>" for x in kinds.HEADS)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(x)}</td>' for x in row)}</tr>" for row in kinds.rows(part.kinds))
    note = "Events by kind, all seeds together, with 95 % intervals (Wilson). Delays are after the rule's dwell."
    return f'<p class="note">{note}</p><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _plots(first: CaseScore) -> list[str]:
    seed = first.case.seed
    out = [f"<h3>Position error over time (RMSE of all pairs, m), seed {seed}</h3>", over_time(first.traces)]
    trace = first.traces["ours"]
    if trace.true:
        middle = trace.t_s[len(trace.t_s) // 2]
        out += [
            f"<h3>Trajectories, {_OVERVIEW_S:g} s from second {middle:.0f}</h3>",
            '<p class="note">Grey: truth. Colours: tracks, one each, so that a new id is a new colour.</p>',
            trajectories(trace, middle, _OVERVIEW_S, None),
            f"<h3>The same, {_ZOOM_S:g} s of the {_ZOOM_M:g} m with most traffic</h3>",
            trajectories(trace, middle, _ZOOM_S, _busiest(trace, middle)),
        ]
    if first.events is not None:
        out += ["<h3>Events</h3>", timeline(first)]
    return out


def _svg(height: float, label: str, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
    start = f'<svg {box} role="img" aria-label="{escape(label, quote=True)}">'
    return "\n".join([start, *parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def over_time(traces: dict[str, Trace]) -> str:
    """Return the SVG of each tracker's error over time."""
    times = [t for trace in traces.values() for t in trace.t_s]
    errors = [e for trace in traces.values() for e in trace.rmse_m if e is not None]
    if not times or not errors:
        return '<p class="note">Nothing was scored.</p>'
    t0, t1, top = min(times), max(*times, min(times) + 1), float(np.percentile(errors, 99)) * 1.2 or 1.0
    width, height = _WIDTH - _LEFT - 20, _HEIGHT
    out = [f'<path d="M{_LEFT} 8V{height}H{_LEFT + width}" stroke="#222" fill="none"/>']
    out += [
        _text(_LEFT - 6, 16, f"{top:.2f}", "end"), _text(_LEFT - 6, height, "0", "end"),
        _text(_LEFT, height + 16, f"{t0:.0f} s"), _text(_LEFT + width, height + 16, f"{t1:.0f} s", "end"),
    ]  # fmt: skip
    for nth, (name, trace) in enumerate(traces.items()):
        colour = _COLOURS[nth % len(_COLOURS)]
        dots = " ".join(
            f"{_LEFT + (t - t0) / (t1 - t0) * width:.1f},{height - min(e / top, 1.0) * (height - 8):.1f}"
            for t, e in zip(trace.t_s, trace.rmse_m, strict=True)
            if e is not None
        )
        out.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        out.append(_text(_LEFT + 10 + 260 * nth, height + 34, tracker_name(name), fill=colour))
    return _svg(height + 44, "position error over time", out)


def _busiest(trace: Trace, from_s: float) -> tuple[float, float]:
    """Return the centre of the square of ``_ZOOM_M`` with most objects in it."""
    rows = _between(trace, trace.true, from_s, 1.0)
    if not rows:
        return 0.0, 0.0
    cells = np.floor(np.array([(e, n) for _, _, e, n in rows]) / _ZOOM_M).astype(int)
    names, counts = np.unique(cells, axis=0, return_counts=True)
    east, north = (names[counts.argmax()] + 0.5) * _ZOOM_M
    return float(east), float(north)


def _between(
    trace: Trace, rows: Sequence[tuple[int, int, float, float]], from_s: float, seconds: float
) -> list[tuple[int, int, float, float]]:
    times = np.array(trace.t_s)
    first, last = np.searchsorted(times, [from_s, from_s + seconds]) + 1
    return [row for row in rows if first <= row[0] < last]


def trajectories(trace: Trace, from_s: float, seconds: float, centre: tuple[float, float] | None) -> str:
    """Return the SVG of true paths and tracks; ``centre``: of the part to be shown, None for all."""
    true, told = (_between(trace, rows, from_s, seconds) for rows in (trace.true, trace.told))
    every = np.array([(e, n) for _, _, e, n in (*true, *told)]).reshape(-1, 2)
    if not len(every):
        return '<p class="note">Nobody was there.</p>'
    if centre is None:
        low, high = every.min(axis=0) - 5, every.max(axis=0) + 5
    else:
        low, high = np.array(centre) - _ZOOM_M / 2, np.array(centre) + _ZOOM_M / 2
    scale = _WIDTH / (high[0] - low[0])
    height = min((high[1] - low[1]) * scale, 600.0)
    scale = min(scale, height / (high[1] - low[1]))
    out = []
    for rows, style in ((true, 'stroke-width="3"'), (told, 'stroke-width="1"')):
        paths: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
        for nth, who, east, north in rows:
            if low[0] <= east <= high[0] and low[1] <= north <= high[1] and (centre is not None or nth % 5 == 0):
                paths[who].append((nth, (east - low[0]) * scale, height - (north - low[1]) * scale))
        for who, points in sorted(paths.items()):
            colour = _TRUTH if rows is true else _HUES[who % len(_HUES)]
            dots = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in points)
            out.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" {style}/>')
    bar = 10 ** np.floor(np.log10((high[0] - low[0]) / 4))
    out.append(f'<path d="M10 {height + 12:.0f}h{bar * scale:.1f}" stroke="#222" stroke-width="2"/>')
    out.append(_text(16 + bar * scale, height + 16, f"{bar:g} m"))
    return _svg(height + 24, "trajectories over truth", out)


def timeline(score: CaseScore) -> str:
    """Return the SVG of the events: true ones as bars (pale: the dwell), told ones as marks, mistakes in red."""
    events = score.events
    assert events is not None
    t0, t1 = score.case.window_s
    width = _WIDTH - _NAMES - 20

    def x(t: float) -> float:
        return _NAMES + (min(max(t, t0), t1) - t0) / (t1 - t0) * width

    rows: list[tuple[float, str, bool, list[str]]] = []
    for match in events.matches:
        e = match.truth
        told = e.start_s + e.dwell_s + match.delay_s
        left, right = x(e.start_s), x(t1 if e.end_s is None else e.end_s)
        dwell = x(e.start_s + e.dwell_s) - left
        marks = [
            f'<rect x="{left:.1f}" y="%Y" width="{right - left:.1f}" height="10" fill="#0b6e4f" opacity=".35"/>',
            f'<rect x="{left:.1f}" y="%Y" width="{dwell:.1f}" height="10" fill="#fff" opacity=".6"/>',
            f'<path d="M{x(told):.1f} %Yv10" stroke="#0b6e4f" stroke-width="2.5"/>',
        ]
        rows.append((e.start_s, f"{e.kind} {e.id}, {match.delay_s:+.2f} s", True, marks))
    for e in events.missed:
        end = x(t1 if e.end_s is None else e.end_s)
        mark_ = f'<rect x="{x(e.start_s):.1f}" y="%Y" width="{end - x(e.start_s):.1f}" height="10" fill="{_BAD}"/>'
        rows.append((e.start_s, f"{e.kind} {e.id}, missed", False, [mark_]))
    for what, told_ in (*(("invented", t) for t in events.invented), *(("twice", t) for t, _ in events.repeated)):
        start = told_.brief(score.case.ledger)["detected_s"]
        mark_ = f'<path d="M{x(start):.1f} %Yv10" stroke="{_BAD}" stroke-width="2.5"/>'
        rows.append((start, f"{'/'.join(told_.kinds)}, {what}", False, [mark_]))
    out = []
    for nth, (_, name, good, marks) in enumerate(sorted(rows, key=lambda row: row[0])):
        y = 6 + nth * _ROW
        out.append(_text(_NAMES - 8, y + 9, name, "end", "#222" if good else _BAD))
        out += [m.replace("%Y", f"{y}") for m in marks]
    height = 6 + len(rows) * _ROW
    out.append(f'<path d="M{_NAMES} {height}H{_NAMES + width}" stroke="#222"/>')
    out += [_text(_NAMES, height + 16, f"{t0:.0f} s"), _text(_NAMES + width, height + 16, f"{t1:.0f} s", "end")]
    return _svg(height + 24, "events", out)
