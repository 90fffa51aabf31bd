"""The label as a PDF. The same parcel gives the same bytes."""

from __future__ import annotations

import io
from itertools import groupby

from reportlab.graphics.barcode.code128 import Code128  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from shop.shipping.labels import layout
from shop.shipping.labels.content import Parcel
from shop.shipping.labels.lettering import PLAIN, transliterated


def render_pdf(parcel: Parcel) -> bytes:
    """Renders the label as a PDF of one page of 4 by 6 inches. Texts are shrunk, wrapped and transliterated
    as needed."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=layout.SIZE, invariant=1, pageCompression=1)
    canvas.setTitle(f"Label {transliterated(parcel.tracking_number)}")
    canvas.setLineWidth(0.75)
    for y in layout.RULES:
        canvas.line(layout.MARGIN, y, layout.MARGIN + layout.WIDTH, y)
    for block in layout.blocks(parcel):
        _draw(canvas, block)
    _qr(canvas, layout.scannable(parcel))
    _bars(canvas, layout.scannable(parcel))
    canvas.setFont(PLAIN, layout.PIECES_SIZE)
    canvas.drawRightString(layout.PIECES_RIGHT, layout.PIECES_BASE, layout.pieces_of(parcel))
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def _draw(canvas: Canvas, block: layout.Block) -> None:
    """Draws the lines, clipped to the block, whatever the font's metrics are."""
    if block.heading:
        text, y = block.heading
        canvas.setFont(PLAIN, layout.HEADING_SIZE)
        canvas.drawString(layout.MARGIN, y, text)
    canvas.saveState()
    clip = canvas.beginPath()
    clip.rect(layout.MARGIN - 1, block.top - block.height - 2, block.width + 2, block.height + 3)
    canvas.clipPath(clip, stroke=0, fill=0)
    y = block.top
    for line, size in block.lines:
        y -= size * layout.LEADING
        line.draw(canvas, layout.MARGIN, y + size * 0.25, size, block.width)
    canvas.restoreState()


def _qr(canvas: Canvas, text: str) -> None:
    """Draws the QR code in a coordinate system whose unit is a module. Each run of dark modules is one
    rectangle."""
    rows = layout.qr_modules(text)
    side = layout.QR_SIZE / (len(rows) + 2 * layout.QR_BORDER)
    left, top = (
        layout.QR_LEFT + layout.QR_BORDER * side,
        layout.QR_BASE + layout.QR_SIZE - layout.QR_BORDER * side,
    )
    drawn = [f"q {side:.6f} 0 0 {-side:.6f} {left:.6f} {top:.6f} cm"]
    for y, row in enumerate(rows):
        x = 0
        for dark, run in groupby(row):
            length = len(list(run))
            if dark:
                drawn.append(f"{x} {y} {length} 1 re")
            x += length
    canvas.addLiteral(" ".join([*drawn, "f Q"]))


def _bars(canvas: Canvas, number: str) -> None:
    bars = Code128(number, barWidth=layout.BAR, barHeight=layout.BARS_HEIGHT, humanReadable=0, quiet=0)
    fitting = min(layout.BAR, (layout.SIZE[0] - 2 * layout.QUIET) / (bars.width / layout.BAR))
    if fitting < layout.BAR:
        bars = Code128(number, barWidth=fitting, barHeight=layout.BARS_HEIGHT, humanReadable=0, quiet=0)
    bars.drawOn(canvas, (layout.SIZE[0] - bars.width) / 2, layout.BARS_BASE)
