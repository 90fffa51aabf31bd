"""The label on the parcel: 4 by 6 inches, with the tracking number in two barcodes. The same parcel gives the
same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from reportlab.graphics.barcode.code128 import Code128  # type: ignore[import-untyped]
from reportlab.graphics.barcode.qrencoder import QR8bitByte, QRCode, QRErrorCorrectLevel  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from shop.orders.order import Order
from shop.settings import Settings
from shop.shipping.carrier import Shipment
from shop.shipping.labels.lettering import BOLD, PLAIN, Line, transliterated, with_transliterations, wrapped

SIZE = (288, 432)
"""4 x 6 inches in points."""
_MARGIN = 18
_WIDTH = SIZE[0] - 2 * _MARGIN
_QR, _QR_BORDER, _QR_MASK = 70, 4, 2
"""Size in points including the border, width of the border in modules, and mask. Every mask is readable, and
comparing all of them takes longer than the label."""
_BAR, _QUIET = 1.3, 10
"""The narrowest bar that scanners read reliably, in points, and the quiet zone beside the first one, in bars.
"""
_LEADING = 1.25
_SMALLEST = 5.0
_TRANSLITERATION_SCALE = 0.62
"""The size of a transliteration relative to its text."""
_UNSCANNABLE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class Parcel:
    """The content of a label."""

    order_id: str
    tracking_number: str
    carrier: str
    service: str
    sender: tuple[str, ...]
    """The lines of the sender's address."""
    recipient: tuple[str, ...]
    """The lines of the recipient's address, the name first."""
    pieces: int
    country: str = ""
    """The recipient's country, which determines the form of Chinese characters."""


def parcel_of(order: Order, shipment: Shipment, s: Settings) -> Parcel:
    """Returns the content of the order's label."""
    to = order.shipping_info
    place = " ".join(part for part in (to.city, to.state, to.zip) if part) if to else ""
    name = (to.name if to else None) or order.customer_name or order.customer_id
    return Parcel(
        order_id=order.id,
        tracking_number=shipment.tracking_number,
        carrier=shipment.carrier,
        service=shipment.service,
        sender=(s.shop.name, s.shop.address),
        recipient=(name, to.address, *([to.address2] if to.address2 else []), place, to.country.upper())
        if to
        else (name,),
        pieces=sum(order.wanted.values()),
        country=to.country.upper() if to else "",
    )


def render_label(parcel: Parcel) -> bytes:
    """Renders the label as a PDF of one page. Texts are shrunk, wrapped and transliterated as needed."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=SIZE, invariant=1, pageCompression=1)
    canvas.setTitle(f"Label {transliterated(parcel.tracking_number)}")
    canvas.setLineWidth(0.75)
    for y in (324, 168, 134):
        canvas.line(_MARGIN, y, _MARGIN + _WIDTH, y)
    _heading(canvas, 406, "FROM")
    _block(canvas, 402, 72, _WIDTH - _QR - 6, _set_cached(parcel.sender, PLAIN, 9, 72, _WIDTH - _QR - 6, ""))
    _qr(canvas, parcel.tracking_number)
    _heading(canvas, 312, "SHIP TO")
    _block(canvas, 308, 134, _WIDTH, _set(parcel.recipient, BOLD, 15, 134, _WIDTH, parcel.country))
    _block(
        canvas,
        164,
        26,
        _WIDTH,
        _set_cached((f"{parcel.carrier} - {parcel.service}",), PLAIN, 11, 26, _WIDTH, ""),
    )
    _heading(canvas, 122, "TRACKING NUMBER")
    _bars(canvas, parcel.tracking_number)
    _block(canvas, 60, 18, _WIDTH, _set((parcel.tracking_number,), BOLD, 13, 18, _WIDTH, ""))
    _block(canvas, 40, 20, _WIDTH - 70, _set((f"Order: {parcel.order_id}",), PLAIN, 9, 20, _WIDTH - 70, ""))
    canvas.setFont(PLAIN, 9)
    canvas.drawRightString(_MARGIN + _WIDTH, 31, f"Pieces: {parcel.pieces}")
    canvas.showPage()
    canvas.save()
    return file.getvalue()


_Set = tuple[tuple[Line, float], ...]
"""Lines with their sizes."""


def _set(  # noqa: PLR0917  (the cached version takes no keywords)
    texts: tuple[str, ...], font: str, size: float, height: float, width: float, country: str
) -> _Set:
    """Typesets a block of text in the largest size that fits. Text that never fits is truncated with dots."""
    lines = with_transliterations(texts)
    while (
        (made := _typeset(lines, font, size, width, country)) and _height(made) > height and size > _SMALLEST
    ):
        size = max(_SMALLEST, size * 0.85)
    while _height(made) > height:
        made = made[:-1]
        if made and _height(made) <= height:
            dots, last = wrapped("...", font, width)[0], made[-1][1]
            made = (*made[:-1], (dots, last))
    return made


_set_cached = lru_cache(maxsize=64)(_set)
"""For texts that are the same on most labels."""


def _typeset(lines: Sequence[tuple[str, bool]], font: str, size: float, width: float, country: str) -> _Set:
    made: list[tuple[Line, float]] = []
    for text, is_transliteration in lines:
        own = max(_SMALLEST, size * _TRANSLITERATION_SCALE) if is_transliteration else size
        made += [
            (line, own) for line in wrapped(text, PLAIN if is_transliteration else font, width / own, country)
        ]
    return tuple(made)


def _height(lines: _Set) -> float:
    return sum(size * _LEADING for _, size in lines)


def _block(canvas: Canvas, top: float, height: float, width: float, lines: _Set) -> None:
    """Draws the lines, clipped to the block, whatever the font's metrics are."""
    canvas.saveState()
    clip = canvas.beginPath()
    clip.rect(_MARGIN - 1, top - height - 2, width + 2, height + 3)
    canvas.clipPath(clip, stroke=0, fill=0)
    y = top
    for line, size in lines:
        y -= size * _LEADING
        line.draw(canvas, _MARGIN, y + size * 0.25, size, width)
    canvas.restoreState()


def _heading(canvas: Canvas, y: float, text: str) -> None:
    canvas.setFont(PLAIN, 7)
    canvas.drawString(_MARGIN, y, text)


def _qr(canvas: Canvas, tracking_number: str) -> None:
    """Draws the QR code. Each run of dark modules is one rectangle."""
    rows = _qr_modules(_scannable(tracking_number))
    side = _QR / (len(rows) + 2 * _QR_BORDER)
    left, top = _MARGIN + _WIDTH - _QR + 8 + _QR_BORDER * side, 332 + _QR - _QR_BORDER * side
    path = canvas.beginPath()
    for y, row in enumerate(rows):
        x = 0
        for dark, run in groupby(row):
            length = len(list(run))
            if dark:
                path.rect(left + x * side, top - (y + 1) * side, length * side, side)
            x += length
    canvas.drawPath(path, stroke=0, fill=1)


def _qr_modules(text: str) -> list[list[bool]]:
    code = QRCode(None, QRErrorCorrectLevel.M)
    code.addData(QR8bitByte(text))
    code.version = code.calculate_version()
    code.makeImpl(False, _QR_MASK)
    return [[bool(module) for module in row] for row in code.modules]


def _bars(canvas: Canvas, tracking_number: str) -> None:
    number = _scannable(tracking_number)
    bars = Code128(number, barWidth=_BAR, barHeight=52, humanReadable=0, quiet=0)
    fitting = min(_BAR, (SIZE[0] - 2 * _QUIET) / (bars.width / _BAR))
    if fitting < _BAR:
        bars = Code128(number, barWidth=fitting, barHeight=52, humanReadable=0, quiet=0)
    bars.drawOn(canvas, (SIZE[0] - bars.width) / 2, 64)


def _scannable(tracking_number: str) -> str:
    return _UNSCANNABLE.sub("-", transliterated(tracking_number))[:100] or "-"
