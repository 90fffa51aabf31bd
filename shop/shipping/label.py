"""The label on the parcel: 4 by 6 inches, plain, the same bytes for the same parcel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shop.files import write_atomic
from shop.names import file_stem
from shop.shipping import pdf

SIZE = (288, 432)
"""4 x 6 inches in points."""
_MARGIN = 18
_WIDTH = SIZE[0] - 2 * _MARGIN
_RULES = [pdf.rule(_MARGIN, y, _WIDTH) for y in (332, 150, 72)]
_FROM, _SHIP_TO, _TRACKING_NUMBER = [
    pdf.block(_MARGIN, y, 8, [heading]) for y, heading in ((408, b"FROM"), (318, b"SHIP TO"), (110, b"TRACKING NUMBER"))
]


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a label says."""

    order_id: str
    tracking_number: str
    carrier: str
    service: str
    sender: tuple[str, ...]
    """The lines of the sender's address."""
    recipient: tuple[str, ...]
    """The lines of the recipient's address, the name first."""
    pieces: int


def render_label(parcel: Parcel) -> bytes:
    """The label as a PDF of one page. Any text is printable: shrunk, wrapped and transliterated as needed."""
    return pdf.page(
        SIZE,
        [
            *_RULES,
            _FROM,
            _fitted_often(396, 60, parcel.sender, size=9),
            _SHIP_TO,
            _fitted(298, 140, parcel.recipient, size=15, bold=True),
            _fitted_often(132, 24, (f"{parcel.carrier} - {parcel.service}",), size=11),
            _TRACKING_NUMBER,
            _fitted(90, 26, (parcel.tracking_number,), size=20, bold=True),
            _fitted(58, 30, (f"Order: {parcel.order_id}",), size=10),
            pdf.block(_MARGIN, 18, 10, [b"Pieces: %d" % parcel.pieces]),
        ],
    )


def label_path(label_dir: Path, order_id: str) -> Path:
    """Where the order's label is."""
    return label_dir / f"{file_stem(order_id)}.pdf"


def write_label(path: Path, label: bytes) -> None:
    """Wholly or not at all; writing the same label again changes nothing."""
    write_atomic(path, label)


def _fitted(y: float, height: float, texts: tuple[str, ...], *, size: float, bold: bool = False) -> bytes:
    """A block of text whose first line's base is at `y`, in the largest size that fits; what never fits ends in dots."""
    encoded = [pdf.encode(text) for text in texts]
    lines = _wrapped(encoded, size)
    while len(lines) * size * 1.2 > height and size > 6:
        size = max(6, size * 0.85)
        lines = _wrapped(encoded, size)
    room = int(height / (size * 1.2))
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][:-3] + b"..."]
    return pdf.block(_MARGIN, y, round(size, 2), lines, bold=bold)


_fitted_often = lru_cache(maxsize=64)(_fitted)
"""For what is the same on most labels."""


def _wrapped(texts: Sequence[bytes], size: float) -> list[bytes]:
    return [line for text in texts for line in pdf.wrap(text, size, _WIDTH)]
