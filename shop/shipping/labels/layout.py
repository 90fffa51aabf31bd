"""The places of everything on a label of 4 by 6 inches, for every format. In points, from the lower left
corner."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from reportlab.graphics.barcode.qrencoder import QR8bitByte, QRCode, QRErrorCorrectLevel  # type: ignore[import-untyped]

from shop.shipping.labels.content import Parcel
from shop.shipping.labels.lettering import BOLD, PLAIN, Line, transliterated, with_transliterations, wrapped

SIZE = (288, 432)
MARGIN = 18
WIDTH = SIZE[0] - 2 * MARGIN
RULES = (324, 168, 134)
"""Heights of the lines across the label."""
HEADING_SIZE = 7
QR_SIZE, QR_BORDER = 70, 4
"""Size of the QR code with its border, and the border's width in modules."""
QR_LEFT, QR_BASE = MARGIN + WIDTH - QR_SIZE + 8, 332
BARS_BASE, BARS_HEIGHT = 64, 52
BAR, QUIET = 1.3, 10
"""The narrowest bar that scanners read reliably, and the quiet zone beside the first one, in bars."""
PIECES_RIGHT, PIECES_BASE, PIECES_SIZE = MARGIN + WIDTH, 31, 9
LEADING = 1.25
_QR_MASK = 2
"""Every mask is readable, and comparing all of them takes longer than the label."""
_SMALLEST = 5.0
_TRANSLITERATION_SCALE = 0.62
"""The size of a transliteration relative to its text."""
_UNSCANNABLE = re.compile(r"[^\x21-\x7e]")

_Set = tuple[tuple[Line, float], ...]
"""Lines with their sizes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of text within a box, and the box's upper edge, height and width."""

    heading: tuple[str, float] | None
    """A word above the box, and the height of its base line."""
    top: float
    height: float
    width: float
    lines: _Set


def blocks(parcel: Parcel, *, plain: bool = False) -> list[Block]:
    """Returns the label's texts in the largest sizes that fit. `plain`: in the characters of Helvetica only,
    instead of beside them."""
    beside_qr, beside_pieces = WIDTH - QR_SIZE - 6, WIDTH - 70
    service, order = (f"{parcel.carrier} - {parcel.service}",), (f"Order: {parcel.order_id}",)
    sender = _set_cached(parcel.sender, PLAIN, 9, 72, beside_qr, "", plain)
    recipient = _set(parcel.recipient, BOLD, 15, 134, WIDTH, parcel.country, plain)
    number = _set((parcel.tracking_number,), BOLD, 13, 18, WIDTH, "", plain)
    return [
        Block(("FROM", 406), 402, 72, beside_qr, sender),
        Block(("SHIP TO", 312), 308, 134, WIDTH, recipient),
        Block(None, 164, 26, WIDTH, _set_cached(service, PLAIN, 11, 26, WIDTH, "", plain)),
        Block(("TRACKING NUMBER", 122), 60, 18, WIDTH, number),
        Block(None, 40, 20, beside_pieces, _set(order, PLAIN, 9, 20, beside_pieces, "", plain)),
    ]


def pieces_of(parcel: Parcel) -> str:
    return f"Pieces: {parcel.pieces}"


def scannable(parcel: Parcel) -> str:
    """Returns the tracking number for the codes: ASCII, at most 100 characters."""
    return _UNSCANNABLE.sub("-", transliterated(parcel.tracking_number))[:100] or "-"


def qr_modules(text: str) -> list[list[bool]]:
    """Returns the rows of the QR code, without its border. True: dark."""
    code = QRCode(None, QRErrorCorrectLevel.M)
    code.addData(QR8bitByte(text))
    code.version = code.calculate_version()
    code.makeImpl(False, _QR_MASK)
    return [[bool(module) for module in row] for row in code.modules]


def _set(  # noqa: PLR0917  (the cached version takes no keywords)
    texts: tuple[str, ...], font: str, size: float, height: float, width: float, country: str, plain: bool
) -> _Set:
    """Typesets a block of text in the largest size that fits. Text that never fits is truncated with dots."""
    lines = [(transliterated(text), False) for text in texts] if plain else with_transliterations(texts)
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
    return sum(size * LEADING for _, size in lines)
