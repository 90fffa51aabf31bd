"""The smallest PDF that prints: one page, two base-14 fonts, text and rules. Microseconds, and the same bytes for the same page.

Text is bytes in WinAnsi (Windows code page 1252), as `encode` makes them; sizes and positions are in points, from the
lower left corner.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from text_unidecode import unidecode  # type: ignore[import-untyped]

from shop.plain import one_line

# Advance widths of Helvetica-Bold (no narrower than Helvetica) for the characters from the blank to the tilde, per mille.
_ASCII_WIDTHS = [
    *(278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556),
    *(556, 556, 333, 333, 584, 584, 584, 611, 1015, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778),
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611, 556, 333, 611),
    *(611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584),
]
_WIDEST = dict.fromkeys(range(192, 223), 778) | dict.fromkeys(range(223, 256), 611) | {0xC6: 1000, 0xE6: 889}
_WIDTHS = [1000] * 32 + _ASCII_WIDTHS + [_WIDEST.get(code, 1000) for code in range(0x7F, 0x100)]
_QUARTERS = bytes(-(-width // 4) for width in _WIDTHS)
"""Widths in units of 4 per mille, rounded up, so that `bytes.translate` and `sum` do the measuring."""


def encode(text: str, limit: int = 300) -> bytes:
    """One line of text that Helvetica can show: what it has no letter for is transliterated, never dropped without a trace."""
    line = one_line(text, limit)
    if line.isascii():
        return line.encode()
    try:
        return unicodedata.normalize("NFC", line).encode("cp1252")
    except UnicodeEncodeError:
        line = one_line("".join(map(_nearest, unicodedata.normalize("NFC", line))), limit)
        return line.encode("cp1252", "replace")


@lru_cache(maxsize=4096)
def _nearest(character: str) -> str:
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        if unicodedata.category(character) in {"Mn", "Cf"}:
            return str(unidecode(character))
        return str(unidecode(character)) or "?"
    return character


def width(text: bytes, size: float) -> float:
    """How wide the text is, or a little less than this."""
    return sum(text.translate(_QUARTERS)) * size / 250


def wrap(text: bytes, size: float, limit: float) -> list[bytes]:
    """The text in lines of at most this width; breaks between words, and within a word that is too long by itself."""
    if width(text, size) <= limit:
        return [text]
    lines: list[bytes] = []
    line = b""
    for word in text.split(b" "):
        longer = line + b" " + word if line else word
        if width(longer, size) <= limit:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while len(line) > 1 and width(line, size) > limit:
            fitting = next((count for count in range(len(line) - 1, 1, -1) if width(line[:count], size) <= limit), 1)
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line else lines


def block(x: float, y: float, size: float, lines: Iterable[bytes], *, bold: bool = False) -> bytes:
    """Lines of text, one below the other; `y` is the first one's base line."""
    shown = b" T* ".join([b"(%b) Tj" % _escaped(line) for line in lines])
    return b"BT /F%d %g Tf %g TL %g %g Td %b ET\n" % (2 if bold else 1, size, size * 1.2, x, y, shown)


def rule(x: float, y: float, length: float) -> bytes:
    """A thin horizontal line."""
    return b"%g %g m %g %g l S\n" % (x, y, x + length, y)


def page(size: tuple[int, int], content: Sequence[bytes]) -> bytes:
    """The whole document, of one page of this width and height."""
    stream = b"".join(content)
    head, tail = _frame(size)
    length = b"%d >>\nstream\n%b\nendstream\nendobj\n" % (len(stream), stream)
    return b"%b%b%b%d\n%%%%EOF\n" % (head, length, tail, len(head) + len(length))


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


@lru_cache(maxsize=8)
def _frame(size: tuple[int, int]) -> tuple[bytes, bytes]:
    """All that stands before and after the page's content: it is the last object, so nothing else ever moves."""
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /%b /Encoding /WinAnsiEncoding >>\nendobj\n"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>\nendobj\n",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>\nendobj\n",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Resources << /Font << /F1 4 0 R /F2 5 0 R >> >> /Contents 6 0 R >>\nendobj\n"
        % size,
        font % b"Helvetica",
        font % b"Helvetica-Bold",
        b"<< /Length ",
    ]
    head, entries = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", [b"0000000000 65535 f \n"]
    for number, body in enumerate(objects, start=1):
        entries.append(b"%010d 00000 n \n" % len(head))
        head += b"%d 0 obj\n%b" % (number, body)
    count = len(entries)
    tail = b"xref\n0 %d\n%btrailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n" % (count, b"".join(entries), count)
    return head, tail
