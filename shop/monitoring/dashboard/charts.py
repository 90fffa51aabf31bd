"""Charts as SVG images, light or dark like the page around them, without scripts and external resources.

The colours of the series contrast with white and with black (3:1 or more), and important values are written
beside their marks.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
_LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 64, 68, 640, 150
"""The area of the marks in a chart over time."""
_ROW = 26
_NAME_WIDTH = 190
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif"
COLOURS: Mapping[str, str] = {
    "completed": "#2f9e64",
    "compensated": "#3b82f6",
    "out_of_stock": "#c77700",
    "rejected": "#a855f7",
    "needs_attention": "#e5484d",
    "p50": "#3b82f6",
    "p95": "#c77700",
    "good": "#2f9e64",
    "warning": "#c77700",
    "bad": "#e5484d",
}
LIGHT = {"ground": "#ffffff", "ink": "#1f2937", "dim": "#4b5563", "grid": "#e5e7eb"}
DARK = {"ground": "#16181d", "ink": "#f3f4f6", "dim": "#b6bcc6", "grid": "#343a45"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value. `share` is the length of its bar, from 0 to 1; `colour` a name in `COLOURS`."""

    name: str
    share: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class BarList:
    """Bars below each other; `none` says why there are none."""

    title: str
    bars: Sequence[Bar]
    none: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`says` is the chart in a sentence, for readers who do not see it."""

    says: str
    svg: str


def bars_over_time(title: str, series: Mapping[str, Sequence[float]], times: Sequence[str]) -> Chart:
    """Draws stacked bars, one for each of the `times`."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    top = _axis_end(max(totals, default=0))
    shapes = _axes(title, top, times, list(series), _number)
    step = _PLOT_WIDTH / max(1, len(times))
    for place in range(len(totals)):
        floor = float(_TOP + _PLOT_HEIGHT)
        for name, values in series.items():
            if (height := _PLOT_HEIGHT * values[place] / top) > 0:
                floor -= height
                shapes.append(_box(_LEFT + (place + 0.1) * step, floor, step * 0.8, height, COLOURS[name]))
    says = f"{title}: {_number(sum(totals))} in all, at most {_number(max(totals, default=0))} at a time"
    return _chart(says, shapes, _TOP + _PLOT_HEIGHT + 32)


def lines_over_time(title: str, series: Mapping[str, Sequence[float | None]], times: Sequence[str]) -> Chart:
    """Draws a line for each series, in seconds, with gaps where there is no value; a single one is a dot."""
    known = [value for values in series.values() for value in values if value is not None]
    top = _axis_end(max(known, default=0))
    shapes = _axes(title, top, times, list(series), lambda value: f"{value:g} s")
    step = _PLOT_WIDTH / max(1, len(times))
    for name, values in series.items():
        for piece in _pieces(values):
            points = [
                (_LEFT + (place + 0.5) * step, _TOP + _PLOT_HEIGHT * (1 - value / top))
                for place, value in piece
            ]
            (x, y), *others = points
            shapes.append(
                _line(points, COLOURS[name]) if others else _box(x - 2.5, y - 2.5, 5, 5, COLOURS[name])
            )
    says = f"{title}: at most {max(known):.2f} s" if known else f"{title}: nothing ended"
    return _chart(says, shapes, _TOP + _PLOT_HEIGHT + 32)


def bar_list(bars: BarList) -> Chart:
    """Draws a row for each bar: its name, the bar, its text."""
    room = WIDTH - _NAME_WIDTH - 190
    shapes = [_text(16, 26, bars.title, size=15, bold=True)]
    for place, bar in enumerate(bars.bars):
        y = 44 + place * _ROW
        shapes += [
            _text(
                _NAME_WIDTH - 8,
                y + 14,
                bar.name if len(bar.name) <= 26 else bar.name[:25] + "…",
                anchor="end",
            ),
            _box(_NAME_WIDTH, y, room, 18, "grid"),
            _text(_NAME_WIDTH + room + 8, y + 14, bar.text),
        ]
        if bar.share > 0:  # a small value is visible, too
            shapes.append(_box(_NAME_WIDTH, y, max(room * min(1, bar.share), 2), 18, COLOURS[bar.colour]))
    if not bars.bars:
        shapes.append(_text(24, 60, bars.none, colour="dim"))
    says = f"{bars.title}: " + ("; ".join(f"{bar.name} {bar.text}" for bar in bars.bars) or bars.none)
    return _chart(says, shapes, 52 + _ROW * max(1, len(bars.bars)))


def as_image(chart: Chart) -> str:
    """Returns the chart as a Markdown image that contains it (`data:`)."""
    alt = "".join(c for c in _printable(chart.says) if c not in "[]()\\`*_<>&|!\n")
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(chart.svg.encode()).decode()})"


def _chart(says: str, shapes: Sequence[str], height: float) -> Chart:
    style = _style(LIGHT) + "@media (prefers-color-scheme: dark){" + _style(DARK) + "}"
    return Chart(
        says,
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height:g}" '
        f'viewBox="0 0 {WIDTH} {height:g}" font-family="{escape(_FONT)}">'
        f"<title>{escape(_printable(says))}</title><style>{style}</style>"
        f"{_box(0, 0, WIDTH, height, 'ground')}{''.join(shapes)}</svg>",
    )


def _axes(
    title: str, top: float, times: Sequence[str], names: Sequence[str], label: Callable[[float], str]
) -> list[str]:
    """Draws title, legend, grid and axes of a chart over time."""
    shapes = [_text(16, 26, title, size=15, bold=True)]
    for place in range(5):
        y = _TOP + _PLOT_HEIGHT * (1 - place / 4)
        shapes += [
            _line([(_LEFT, y), (_LEFT + _PLOT_WIDTH, y)], "grid", 1),
            _text(_LEFT - 6, y + 4, label(top * place / 4), size=11, colour="dim", anchor="end"),
        ]
    step = _PLOT_WIDTH / max(1, len(times))
    for place in range(0, len(times), max(1, math.ceil(len(times) / 8))):
        shapes.append(
            _text(
                _LEFT + (place + 0.5) * step,
                _TOP + _PLOT_HEIGHT + 18,
                times[place],
                size=11,
                colour="dim",
                anchor="middle",
            )
        )
    x = 16.0
    for name in names:
        shapes += [_box(x, 38, 10, 10, COLOURS[name]), _text(x + 15, 48, name)]
        x += 15 + 7.5 * len(name) + 20
    return shapes


def _pieces(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Runs of known values, each with its place."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is not None:
            pieces[-1].append((place, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _axis_end(value: float) -> float:
    """Returns 1, 2, 4 or 8 times a power of ten, at least the value."""
    if value <= 0:
        return 4
    power = 10.0 ** math.floor(math.log10(value))
    return next(times * power for times in (1, 2, 4, 8, 10, 20) if times * power >= value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {_paint("fill", colour)}/>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str, thick: float = 2) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke-width="{thick:g}" '
        f'stroke-linejoin="round" {_paint("stroke", colour)}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    colour: str = "ink",
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight}'
    return f"<text {where} {_paint('fill', colour)}>{escape(_printable(text))}</text>"


def _paint(what: str, colour: str) -> str:
    """Returns the attribute. `colour` is `#rrggbb`, or a key of `LIGHT`."""
    return f'class="{what}-{colour}"' if colour in LIGHT else f'{what}="{colour}"'


def _style(colours: dict[str, str]) -> str:
    return "".join(
        f".fill-{name}{{fill:{colour}}}.stroke-{name}{{stroke:{colour}}}" for name, colour in colours.items()
    )


def _printable(text: str) -> str:
    """Replaces control characters, which XML does not allow."""
    return "".join(c if c.isprintable() else " " for c in text)
