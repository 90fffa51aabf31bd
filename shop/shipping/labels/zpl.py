"""The label in ZPL II, the language of label printers. The same parcel gives the same bytes, all of them
ASCII.

Texts are in the printer's scalable font (`0`), which has Latin letters only: other scripts are
transliterated. The font is narrower than Helvetica, whose widths the layout assumes, so that lines fit.
"""

from __future__ import annotations

import re

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
    blocks,
    pieces_of,
    qr_modules,
    scannable,
)
from shop.shipping.labels.lettering import PLAIN, set_line

RESOLUTIONS = (203, 300)
"""The usual resolutions of label printers, in dots per inch."""
_UTF_8 = "^CI28"
_TEXT = re.compile(r"[^A-Za-z0-9 .,:;!?'\"()/+*=@#%&-]")
_IN_CODE_128 = str.maketrans({">": ">0", "^": "><", "~": ">="})
"""How Code 128 writes what has a meaning in ZPL's bar codes or in ZPL."""
_WIDEST_MODULE = 10
"""The largest module of a QR code that ZPL allows, in dots."""


def render_zpl(parcel: Parcel, dots_per_inch: int = 203) -> bytes:
    """Renders the label for a printer of this resolution, on 4 by 6 inches. Texts are shrunk, wrapped and
    transliterated as needed."""
    to_dots = dots_per_inch / 72
    page = _Page(to_dots)
    for height in RULES:
        page.rule(MARGIN, height, WIDTH)
    for block in blocks(parcel, plain=True):
        if block.heading:
            page.text(MARGIN, block.heading[1], HEADING_SIZE, block.heading[0])
        y = block.top
        for line, size in block.lines:
            y -= size * LEADING
            page.text(MARGIN, y + size * 0.25, size, line.text)
    pieces = pieces_of(parcel)
    width = set_line(pieces, PLAIN).width * PIECES_SIZE
    page.text(PIECES_RIGHT - width, PIECES_BASE, PIECES_SIZE, pieces)
    page.qr(scannable(parcel))
    page.bars(scannable(parcel))
    return page.finish()


class _Page:
    """The commands of one label. Takes points from the lower left corner; ZPL counts dots from the upper
    left one."""

    def __init__(self, to_dots: float) -> None:
        self._to_dots = to_dots
        width, height = map(self._dots, SIZE)
        self._commands = [f"^XA{_UTF_8}^PW{width}^LL{height}^LH0,0"]

    def _dots(self, points: float) -> int:
        return round(points * self._to_dots)

    def _at(self, x: float, y: float) -> str:
        return f"{self._dots(x)},{self._dots(SIZE[1] - y)}"

    def text(self, x: float, y: float, size: float, text: str) -> None:
        """A line of text with the left end of its base line at (x, y)."""
        dots = self._dots(size)
        self._commands.append(f"^FT{self._at(x, y)}^A0N,{dots},{dots}^FH^FD{_escaped(text)}^FS")

    def rule(self, x: float, y: float, width: float) -> None:
        self._commands.append(f"^FO{self._at(x, y)}^GB{self._dots(width)},2,2^FS")

    def qr(self, text: str) -> None:
        modules = len(qr_modules(text)) + 2 * QR_BORDER
        side = min(_WIDEST_MODULE, max(1, self._dots(QR_SIZE) // modules))
        border = QR_BORDER * side / self._to_dots
        at = self._at(QR_LEFT + border, QR_BASE + QR_SIZE - border)
        self._commands.append(f"^FO{at}^BQN,2,{side}^FH^FDMA,{_escaped(text)}^FS")

    def bars(self, number: str) -> None:
        """The bar code, in the middle. A number that is too long for it is in the QR code only."""
        modules = 11 * (len(number) + 2) + 13  # with start, check and stop, in the code set of all letters
        room = self._dots(SIZE[0]) - 2 * self._dots(QUIET * BAR)
        side = min(self._dots(BAR), room // modules)
        if side < 1:
            return
        left = (SIZE[0] - modules * side / self._to_dots) / 2
        at = self._at(left, BARS_BASE + BARS_HEIGHT)
        self._commands.append(
            f"^BY{side}^FO{at}^BCN,{self._dots(BARS_HEIGHT)},N,N,N^FH^FD>:"
            f"{_escaped(number.translate(_IN_CODE_128))}^FS"
        )

    def finish(self) -> bytes:
        return "\n".join([*self._commands, "^PQ1^XZ", ""]).encode("ascii")


def _escaped(text: str) -> str:
    """Returns the text for a field with `^FH`: anything that could be a command is in hexadecimal UTF-8."""
    return _TEXT.sub(lambda found: "".join(f"_{byte:02X}" for byte in found[0].encode()), text)
