"""The label as a PDF. The same parcel gives the same bytes."""

from __future__ import annotations

import io
from itertools import groupby

from reportlab.graphics.barcode.code128 import Code128  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from shop.shipping.labels.content import Parcel
from shop.shipping.labels.layout import (
    BAR,
    BARS_BASE,
    BARS_HEIGHT,
    HEADING_SIZE,
    LEADING,
    MARGIN,
    PIECES_BASE,
    PIECES_RIGHT,
    PIECES_SIZE,
    QR_BASE,
    QR_BORDER,
    QR_LEFT,
    QR_SIZE,
    QUIET,
    RULES,
    SIZE,
    WIDTH,
    Block,
    blocks,
    pieces_of,
    qr_modules,
    scannable,
)
from shop.shipping.labels.lettering import PLAIN, transliterated


def render_pdf(parcel: Parcel) -> bytes:
    """Renders the label as a PDF of one page of 4 by 6 inches. Texts are shrunk, wrapped and transliterated
    as needed."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=SIZE, invariant=1, pageCompression=1)
    canvas.setTitle(f"Label {transliterated(parcel.tracking_number)}")
    canvas.setLineWidth(0.75)
    for y in RULES:
        canvas.line(MARGIN, y, MARGIN + WIDTH, y)
    for block in blocks(parcel):
        _draw(canvas, block)
    _qr(canvas, scannable(parcel))
    _bars(canvas, scannable(parcel))
    canvas.setFont(PLAIN, PIECES_SIZE)
    canvas.drawRightString(PIECES_RIGHT, PIECES_BASE, pieces_of(parcel))
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def _draw(canvas: Canvas, block: Block) -> None:
    """Draws the lines, clipped to the block, whatever the font's metrics are."""
    if block.heading:
        text, y = block.heading
        canvas.setFont(PLAIN, HEADING_SIZE)
        canvas.drawString(MARGIN, y, text)
    canvas.saveState()
    clip = canvas.beginPath()
    clip.rect(MARGIN - 1, block.top - block.height - 2, block.width + 2, block.height + 3)
    canvas.clipPath(clip, stroke=0, fill=0)
    y = block.top
    for line, size in block.lines:
        y -= size * LEADING
        line.draw(canvas, MARGIN, y + size * 0.25, size, block.width)
    canvas.restoreState()


def _qr(canvas: Canvas, text: str) -> None:
    """Draws the QR code in a coordinate system whose unit is a module. Each run of dark modules is one
    rectangle."""
    rows = qr_modules(text)
    side = QR_SIZE / (len(rows) + 2 * QR_BORDER)
    left, top = QR_LEFT + QR_BORDER * side, QR_BASE + QR_SIZE - QR_BORDER * side
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
    bars = Code128(number, barWidth=BAR, barHeight=BARS_HEIGHT, humanReadable=0, quiet=0)
    fitting = min(BAR, (SIZE[0] - 2 * QUIET) / (bars.width / BAR))
    if fitting < BAR:
        bars = Code128(number, barWidth=fitting, barHeight=BARS_HEIGHT, humanReadable=0, quiet=0)
    bars.drawOn(canvas, (SIZE[0] - bars.width) / 2, BARS_BASE)
