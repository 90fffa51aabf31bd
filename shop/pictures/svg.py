"""A chart as SVG, light or dark as the page around it is. No script, nothing from outside: it can be an image."""

from __future__ import annotations

import base64
from html import escape

from shop.pictures.chart import Box, Chart, Line, Words

LIGHT = {"ground": "#ffffff", "ink": "#1f2937", "dim": "#4b5563", "grid": "#e5e7eb"}
DARK = {"ground": "#16181d", "ink": "#f3f4f6", "dim": "#b6bcc6", "grid": "#343a45"}
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif"


def svg(chart: Chart) -> str:
    """The whole image."""
    style = _style(LIGHT) + "@media (prefers-color-scheme: dark){" + _style(DARK) + "}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{chart.width:g}" height="{chart.height:g}" '
        f'viewBox="0 0 {chart.width:g} {chart.height:g}" font-family="{escape(_FONT)}"><title>{escape(_printable(chart.says))}</title>'
        f"<style>{style}</style>{''.join(map(_shape, chart.shapes))}</svg>"
    )


def as_image(chart: Chart) -> str:
    """The image as Markdown with everything in it (`data:`)."""
    said = "".join(c for c in _printable(chart.says) if c not in "[]()\\`*_<>&|!\n")
    return f"![{said}](data:image/svg+xml;base64,{base64.b64encode(svg(chart).encode()).decode()})"


def _style(colours: dict[str, str]) -> str:
    return "".join(f".{role}{{fill:{colour}}}.s-{role}{{stroke:{colour}}}" for role, colour in colours.items())


def _shape(shape: Box | Line | Words) -> str:
    match shape:
        case Box(x, y, width, height, colour):
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {_fill(colour)}/>'
        case Line(points, colour, thick):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            stroke = f'class="s-{colour}"' if colour in LIGHT else f'stroke="{colour}"'
            return f'<polyline points="{path}" fill="none" stroke-width="{thick:g}" stroke-linejoin="round" {stroke}/>'
        case Words(x, y, text, size, colour, anchor, bold):
            weight = ' font-weight="600"' if bold else ""
            return (
                f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight} {_fill(colour)}>'
                f"{escape(_printable(text))}</text>"
            )


def _fill(colour: str) -> str:
    return f'class="{colour}"' if colour in LIGHT else f'fill="{colour}"'


def _printable(text: str) -> str:
    """XML knows no control characters."""
    return "".join(c if c.isprintable() else " " for c in text)
