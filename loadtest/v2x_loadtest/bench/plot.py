"""A page with bars (median) and whiskers (range) as inline SVG: no script, no font, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from v2x.errors import ConfigError

from v2x_loadtest.bench.harness import Spread, machine

_WIDTH: Final = 860
_LEFT: Final = 190
_RIGHT: Final = 150
_ROW: Final = 30
_BAR: Final = 18
_COLOURS: Final = ("#0b6e4f", "#8d99ae")  # ours, the others
STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.4em}h2{font-size:1.05em;margin:1.6em 0 .2em}svg{max-width:100%;height:auto}
text{font:13px system-ui,sans-serif}
.note{color:#555}
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of several candidates, a list of rounds each."""

    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    base: str = ""  # drawn in the first colour
    digits: int = 1


def bars(chart: Chart) -> str:
    """Return the SVG of a chart."""
    spreads = {name: Spread.of(list(v)) for name, v in chart.values.items() if v}
    top = max((s.high for s in spreads.values()), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / top
    height = _ROW * len(spreads) + 8
    label = escape(f"{chart.title}, {chart.unit}", quote=True)
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="{label}">']
    for i, (name, s) in enumerate(spreads.items()):
        y = i * _ROW + 6
        middle = y + _BAR / 2
        colour = _COLOURS[0 if name == chart.base else 1]
        low, high = _LEFT + s.low * scale, _LEFT + s.high * scale
        whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        out += [
            f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{s.median * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="{whisker}" stroke="#222" fill="none"/>',
            f'<text x="{high + 8:.1f}" y="{middle + 4:.1f}">{escape(s.show(chart.digits))}</text>',
        ]
    return "\n".join([*out, "</svg>"])


@dataclass(frozen=True, slots=True)
class Line:
    """Figures over time: points (x, y) of each run, x and y from 0."""

    title: str
    unit: str
    values: Mapping[str, Sequence[tuple[float, float]]]


def lines(chart: Line) -> str:
    """Return the SVG of figures over time."""
    points = [point for run in chart.values.values() for point in run] or [(0.0, 0.0)]
    right, top = (max(values) or 1.0 for values in zip(*points, strict=True))
    width, height = _WIDTH - _LEFT - _RIGHT, 5 * _ROW
    label = escape(f"{chart.title}, {chart.unit}", quote=True)
    out = [f'<svg viewBox="0 0 {_WIDTH} {height + _ROW}" width="{_WIDTH}" role="img" aria-label="{label}">']
    out.append(f'<path d="M{_LEFT} 8V{height}H{_LEFT + width}" stroke="#222" fill="none"/>')
    for text, x, y, anchor in (
        (f"{top:,.0f}", _LEFT - 8, 14, "end"), ("0", _LEFT - 8, height, "end"),
        (f"{right:,.0f} s", _LEFT + width, height + 18, "end"),
    ):  # fmt: skip
        out.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>')
    for run in chart.values.values():
        dots = " ".join(
            f"{_LEFT + x / right * width:.1f},{height - max(y, 0.0) / top * (height - 8):.1f}" for x, y in run
        )
        out.append(f'<polyline points="{dots}" fill="none" stroke="{_COLOURS[0]}" stroke-width="1.5"/>')
    return "\n".join([*out, "</svg>"])


def page(title: str, notes: Sequence[str], charts: Sequence[Chart | Line]) -> str:
    """Return the whole page."""
    here = machine()
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in notes]
    for chart in charts:
        drawn = lines(chart) if isinstance(chart, Line) else bars(chart)
        body += [f"<h2>{escape(chart.title)} ({escape(chart.unit)})</h2>", drawn]
    body.append(
        f'<p class="note">Median of the rounds, whiskers from the lowest to the highest. {escape(str(here["cpu"]))}, '
        f"{here['cores']} cores, Python {escape(str(here['python']))}.</p>"
    )
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def write(path: Path, text: str) -> None:
    """Write a page; ConfigError if that cannot be done."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"--plot {path} cannot be written: {error.strerror}") from error
