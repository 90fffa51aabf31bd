"""The label in ZPL II, the language of label printers. The same parcel gives the same bytes, all of them
ASCII.

Texts are in the printer's scalable font (`0`), which has Latin letters only: other scripts are
transliterated. The font is narrower than Helvetica, whose widths the layout assumes, so that lines fit.
"""

from __future__ import annotations

import re

from shop.shipping.labels import layout
from shop.shipping.labels.content import Parcel
from shop.shipping.labels.lettering import PLAIN, set_line

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
    for height in layout.RULES:
        page.rule(layout.MARGIN, height, layout.WIDTH)
    for block in layout.blocks(parcel, plain=True):
        if block.heading:
            page.text(layout.MARGIN, block.heading[1], layout.HEADING_SIZE, block.heading[0])
        y = block.top
        for line, size in block.lines:
            y -= size * layout.LEADING
            page.text(layout.MARGIN, y + size * 0.25, size, line.text)
    pieces = layout.pieces_of(parcel)
    width = set_line(pieces, PLAIN).width * layout.PIECES_SIZE
    page.text(layout.PIECES_RIGHT - width, layout.PIECES_BASE, layout.PIECES_SIZE, pieces)
    page.qr(layout.scannable(parcel))
    page.bars(layout.scannable(parcel))
    return page.finish()


class _Page:
    """The commands of one label. Takes points from the lower left corner; ZPL counts dots from the upper
    left one."""

    def __init__(self, to_dots: float) -> None:
        self._to_dots = to_dots
        width, height = map(self._dots, layout.SIZE)
        self._commands = [f"^XA{_UTF_8}^PW{width}^LL{height}^LH0,0"]

    def _dots(self, points: float) -> int:
        return round(points * self._to_dots)

    def _at(self, x: float, y: float) -> str:
        return f"{self._dots(x)},{self._dots(layout.SIZE[1] - y)}"

    def text(self, x: float, y: float, size: float, text: str) -> None:
        """A line of text with the left end of its base line at (x, y)."""
        dots = self._dots(size)
        self._commands.append(f"^FT{self._at(x, y)}^A0N,{dots},{dots}^FH^FD{_escaped(text)}^FS")

    def rule(self, x: float, y: float, width: float) -> None:
        self._commands.append(f"^FO{self._at(x, y)}^GB{self._dots(width)},2,2^FS")

    def qr(self, text: str) -> None:
        modules = len(layout.qr_modules(text)) + 2 * layout.QR_BORDER
        side = min(_WIDEST_MODULE, max(1, self._dots(layout.QR_SIZE) // modules))
        border = layout.QR_BORDER * side / self._to_dots
        at = self._at(layout.QR_LEFT + border, layout.QR_BASE + layout.QR_SIZE - border)
        self._commands.append(f"^FO{at}^BQN,2,{side}^FH^FDMA,{_escaped(text)}^FS")

    def bars(self, number: str) -> None:
        """The bar code, in the middle. A number that is too long for it is in the QR code only."""
        modules = 11 * (len(number) + 2) + 13  # with start, check and stop, in the code set of all letters
        room = self._dots(layout.SIZE[0]) - 2 * self._dots(layout.QUIET * layout.BAR)
        side = min(self._dots(layout.BAR), room // modules)
        if side < 1:
            return
        left = (layout.SIZE[0] - modules * side / self._to_dots) / 2
        at = self._at(left, layout.BARS_BASE + layout.BARS_HEIGHT)
        self._commands.append(
            f"^BY{side}^FO{at}^BCN,{self._dots(layout.BARS_HEIGHT)},N,N,N^FH^FD>:"
            f"{_escaped(number.translate(_IN_CODE_128))}^FS"
        )

    def finish(self) -> bytes:
        return "\n".join([*self._commands, "^PQ1^XZ", ""]).encode("ascii")


def _escaped(text: str) -> str:
    """Returns the text for a field with `^FH`: anything that could be a command is in hexadecimal UTF-8."""
    return _TEXT.sub(lambda found: "".join(f"_{byte:02X}" for byte in found[0].encode()), text)
