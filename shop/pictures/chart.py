"""Charts as shapes, whatever they are drawn with: see `shop.pictures.svg` and `shop.pictures.png`.

A chart has a background of its own, so that it can be read on any page. The colours of its series stand out from white and from black
(3:1 or more), and every value that matters is written beside its mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

WIDTH = 720
_PLOT = (64, 68, 640, 150)
"""Left, top, width, height of the marks of a chart over time."""
_BAR_ROW = 26
_NAME_WIDTH = 190
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
Role = Literal["ground", "ink", "dim", "grid"]
"""Colours that depend on whether the chart is light or dark."""
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    colour: str
    """A `Role`, or `#rrggbb`."""


@dataclass(frozen=True, slots=True)
class Line:
    points: tuple[tuple[float, float], ...]
    colour: str
    thick: float = 2


@dataclass(frozen=True, slots=True)
class Words:
    x: float
    y: float
    """Of the line that the letters stand on."""
    text: str
    size: float = 12
    colour: str = "ink"
    anchor: Anchor = "start"
    bold: bool = False


@dataclass
class Chart:
    """`title` says what is drawn; `says` the same in a sentence, for who does not see it."""

    title: str
    height: float
    shapes: list[Box | Line | Words] = field(default_factory=list)
    says: str = ""
    width: float = WIDTH


def bars_over_time(title: str, series: Mapping[str, Sequence[float]], times: Sequence[str]) -> Chart:
    """Bars that stand on each other, one for each time; `times` are their names."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)] if series else []
    top = _nice(max(totals, default=0))
    chart = _over_time(title, top, times, list(series), _number)
    left, above, width, height = _PLOT
    step = width / max(1, len(times))
    for place in range(len(totals)):
        floor = float(above + height)
        for name, values in series.items():
            tall = height * values[place] / top
            if tall > 0:
                chart.shapes.append(Box(left + place * step + step * 0.1, floor - tall, step * 0.8, tall, COLOURS[name]))
                floor -= tall
    chart.says = f"{title}: {_number(sum(totals))} in all, at most {_number(max(totals, default=0))} at a time"
    return chart


def lines_over_time(title: str, series: Mapping[str, Sequence[float | None]], times: Sequence[str]) -> Chart:
    """A line for each series, in seconds; where there is no value it is broken, and a lonely value is a dot."""
    known = [value for values in series.values() for value in values if value is not None]
    top = _nice(max(known, default=0))
    chart = _over_time(title, top, times, list(series), lambda value: f"{value:g} s")
    left, above, width, height = _PLOT
    step = width / max(1, len(times))
    for name, values in series.items():
        for piece in _pieces(values):
            points = tuple((left + (place + 0.5) * step, above + height - height * value / top) for place, value in piece)
            if len(points) == 1:
                ((x, y),) = points
                chart.shapes.append(Box(x - 2.5, y - 2.5, 5, 5, COLOURS[name]))
            else:
                chart.shapes.append(Line(points, COLOURS[name]))
    chart.says = f"{title}: at most {max(known):.2f} s" if known else f"{title}: nothing ended"
    return chart


def rows(title: str, values: Sequence[tuple[str, float, str, str]], *, top: float | None = None, none: str = "none") -> Chart:
    """A bar for each row: its name, its value, what is written beside it, and the name of its colour."""
    chart = _blank(title, 52 + _BAR_ROW * max(1, len(values)))
    most = top or max((value for _, value, _, _ in values), default=0) or 1
    room = chart.width - _NAME_WIDTH - 190
    for place, (name, value, written, colour) in enumerate(values):
        y = 44 + place * _BAR_ROW
        chart.shapes += [
            Words(_NAME_WIDTH - 8, y + 14, name if len(name) <= 26 else name[:25] + "…", anchor="end"),
            Box(_NAME_WIDTH, y, room, 18, "grid"),
            Words(_NAME_WIDTH + room + 8, y + 14, written),
        ]
        if value > 0:  # what there is can be seen, however little
            chart.shapes.append(Box(_NAME_WIDTH, y, max(room * min(1, value / most), 2), 18, COLOURS[colour]))
    if not values:
        chart.shapes.append(Words(24, 60, none, colour="dim"))
    chart.says = f"{title}: " + ("; ".join(f"{name} {written}" for name, _, written, _ in values) or none)
    return chart


def _blank(title: str, height: float) -> Chart:
    return Chart(title, height, [Box(0, 0, WIDTH, height, "ground"), Words(16, 26, title, 15, bold=True)])


def _over_time(title: str, top: float, times: Sequence[str], names: Sequence[str], written: object) -> Chart:
    assert callable(written)
    chart = _blank(title, _PLOT[1] + _PLOT[3] + 32)
    left, above, width, height = _PLOT
    for place in range(5):
        y = above + height - height * place / 4
        chart.shapes += [
            Line(((left, y), (left + width, y)), "grid", 1),
            Words(left - 6, y + 4, str(written(top * place / 4)), 11, "dim", "end"),
        ]
    step = width / max(1, len(times))
    every = max(1, math.ceil(len(times) / 8))
    for place in range(0, len(times), every):
        chart.shapes.append(Words(left + (place + 0.5) * step, above + height + 18, times[place], 11, "dim", "middle"))
    x: float = 16
    for name in names:
        chart.shapes += [Box(x, 38, 10, 10, COLOURS[name]), Words(x + 15, 48, name)]
        x += 15 + 7.5 * len(name) + 20
    return chart


def _pieces(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    pieces: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is not None:
            pieces[-1].append((place, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _nice(value: float) -> float:
    """The end of an axis: 1, 2, 4 or 8 times a power of ten that is not below the value."""
    if value <= 0:
        return 4
    power = 10.0 ** math.floor(math.log10(value))
    return next(times * power for times in (1, 2, 4, 8, 10, 20) if times * power >= value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
