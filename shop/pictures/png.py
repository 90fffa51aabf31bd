"""A chart as PNG, for mails: few mail programs show SVG. Light, on its own ground."""

from __future__ import annotations

import io
from typing import Any

from shop.pictures.chart import Box, Chart, Line, Words
from shop.pictures.svg import LIGHT

_SCALE = 2
"""Pixels for each unit, so that it is sharp on any screen."""
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(chart: Chart) -> bytes:
    """The whole image; the same bytes for the same chart."""
    from PIL import Image, ImageDraw, ImageFont  # loading it takes longer than a worker has time for at its start

    image = Image.new("RGB", (round(chart.width * _SCALE), round(chart.height * _SCALE)), LIGHT["ground"])
    draw = ImageDraw.Draw(image)
    fonts: dict[float, Any] = {}

    def font(size: float) -> Any:
        return fonts.setdefault(size, ImageFont.load_default(size * _SCALE))

    for shape in chart.shapes:
        match shape:
            case Box(x, y, width, height, colour):
                draw.rectangle((x * _SCALE, y * _SCALE, (x + width) * _SCALE, (y + height) * _SCALE), fill=LIGHT.get(colour, colour))
            case Line(points, colour, thick):
                scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
                draw.line(scaled, fill=LIGHT.get(colour, colour), width=round(thick * _SCALE), joint="curve")
            case Words(x, y, text, size, colour, anchor, bold):
                at = (x * _SCALE, y * _SCALE)
                fill, heavy = LIGHT.get(colour, colour), 0.4 * _SCALE if bold else 0
                draw.text(at, text, fill=fill, font=font(size), anchor=_ANCHORS[anchor], stroke_width=heavy, stroke_fill=fill)
    data = io.BytesIO()
    image.quantize(64).save(data, "PNG", optimize=True)
    return data.getvalue()
