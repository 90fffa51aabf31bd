"""Typesets lines of text in any script.

Text that Helvetica supports is drawn as text. Any other text is shaped by HarfBuzz (Arabic joins, Hindi
stacks) with bundled fonts, and drawn as outlines, so that it looks the same on every printer, followed by a
transliteration in Helvetica. No character is drawn as an empty box: those that no font has appear in the
transliteration only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import uharfbuzz as hb  # type: ignore[import-untyped]
from anyascii import anyascii
from bidi.algorithm import get_base_level, get_display  # type: ignore[import-untyped]
from reportlab.pdfbase.pdfmetrics import stringWidth  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from shop.text.sanitize import one_line

PLAIN, BOLD = "Helvetica", "Helvetica-Bold"
_WEIGHT = {PLAIN: 400, BOLD: 600}
_FONTS = (
    "NotoSans Arabic Hebrew Devanagari Thai Armenian Georgian Bengali Gujarati Gurmukhi "
    "Kannada Malayalam Oriya Sinhala Tamil Telugu Khmer Lao Myanmar Ethiopic Symbols"
)
_CJK = {"JP": 0, "KR": 1, "CN": 2, "TW": 3, "HK": 4}
"""The face of the CJK font for the character forms of each country."""
_RIGHT_TO_LEFT = frozenset({"R", "AL"})
_JOINED = frozenset({"Mn", "Mc", "Me", "Cf", "Sk"})
"""Categories of characters that belong to the preceding one."""

_ALEF = "\u0627"
_SILENT = _JOINED | {"Lm", "So"}
"""Categories of characters that may have no transliteration: marks, letters that only modify another one,
symbols."""


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Returns the character, or its transliteration if Helvetica does not have it."""
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        if character == _ALEF:
            return "a"  # anyascii omits it, which shortens words too much
        nearest, kind = anyascii(character), unicodedata.category(character)
        if kind == "So" and nearest.startswith(":"):
            return ""  # the name of an emoji
        return nearest if nearest or kind in _SILENT else "?"
    return character


def transliterated(text: str, limit: int = 300) -> str:
    """Returns the text as one line in characters of Helvetica. Others are transliterated, never dropped
    silently."""
    line = unicodedata.normalize("NFC", one_line(text, limit))
    return line if line.isascii() else one_line("".join(map(_plain, line)), limit)


class _Face:
    """A font at some weight, with its glyphs' outlines."""

    def __init__(self, package: str, file: str, index: int, weight: int) -> None:
        face = hb.Face(hb.Blob.from_file_path(str(files(package) / file)), index)
        self.font, self.unit = hb.Font(face), 1 / face.upem
        self.font.set_variations({"wght": weight})
        self.letters: Any = face.unicodes
        self._outlines: dict[int, str] = {}

    def outline(self, glyph: int) -> str:
        """Returns the glyph's outline as PDF operators, in the font's units."""
        if glyph not in self._outlines:
            if len(self._outlines) > 4096:
                self._outlines.clear()
            pen = _Pen()
            self.font.draw_glyph_with_pen(glyph, pen)
            self._outlines[glyph] = " ".join(pen.moves)
        return self._outlines[glyph]


_Point = tuple[float, float]


class _Pen:
    """Records an outline as PDF operators. PDF has cubic curves only."""

    def __init__(self) -> None:
        self.moves: list[str] = []
        self._at: _Point = (0.0, 0.0)

    def _append(self, word: str, *points: _Point) -> None:
        self.moves += [*(f"{number:.0f}" for point in points for number in point), word]
        self._at = points[-1]

    def moveTo(self, to: _Point) -> None:  # noqa: N802  (the names of FontTools' pens)
        self._append("m", to)

    def lineTo(self, to: _Point) -> None:  # noqa: N802
        self._append("l", to)

    def curveTo(self, one: _Point, two: _Point, to: _Point) -> None:  # noqa: N802
        self._append("c", one, two, to)

    def qCurveTo(self, by: _Point, to: _Point) -> None:  # noqa: N802
        (x, y), third = self._at, 2 / 3
        one = (x + third * (by[0] - x), y + third * (by[1] - y))
        two = (to[0] + third * (by[0] - to[0]), to[1] + third * (by[1] - to[1]))
        self.curveTo(one, two, to)

    def closePath(self) -> None:  # noqa: N802
        self.moves.append("h")

    endPath = closePath  # noqa: N815


@lru_cache(maxsize=128)
def _face(name: str, weight: int) -> _Face:
    if name in _CJK:
        return _Face("manimgx_fonts_cjk", "NotoSansCJK-VF.otf.ttc", _CJK[name], weight)
    return _Face("manimgx_fonts", f"{name if name == 'NotoSans' else f'NotoSans{name}'}[wght].ttf", 0, weight)


@lru_cache(maxsize=8192)
def _face_for(character: str, country: str, weight: int) -> str | None:
    """Returns the name of the font for this character, in that country's form; None if no font has it."""
    cjk = country if country in _CJK else "CN"
    for name in (*_FONTS.split(), cjk):
        if ord(character) in _face(name, weight).letters:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Glyph:
    """A glyph and its position: relative to the font size, from the line's start."""

    face: str
    number: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    font: str
    width: float
    """Relative to the font size."""
    glyphs: tuple[Glyph, ...] | None = None
    """None: drawn as text."""
    from_right: bool = False

    def draw(self, canvas: Canvas, x: float, y: float, size: float, room: float) -> None:
        """Draws the line with the left end of its base line at (x, y). A right-to-left line is aligned to the
        right."""
        if self.glyphs is None:
            canvas.setFont(self.font, size)
            canvas.drawString(x, y, self.text)
            return
        left = x + room - self.width * size if self.from_right else x
        for glyph in self.glyphs:
            face = _face(glyph.face, _WEIGHT[self.font])
            scale = size * face.unit
            place = f"{scale:.6f} 0 0 {scale:.6f} {left + glyph.x * size:.3f} {y + glyph.y * size:.3f}"
            canvas.addLiteral(f"q {place} cm {face.outline(glyph.number)} f Q")


def is_plain(text: str) -> bool:
    """Returns whether Helvetica has all characters of the text."""
    return text.isascii() or transliterated(text, len(text) + 1) == text


def wrapped(text: str, font: str, room: float, country: str = "") -> list[Line]:
    """Wraps the text to lines no wider than `room` (relative to the font size), between words or within a
    word that is too long."""
    lines: list[Line] = []
    current = ""
    for word in text.split(" "):
        longer = f"{current} {word}" if current else word
        if set_line(longer, font, country).width <= room:
            current = longer
            continue
        if current:
            lines.append(set_line(current, font, country))
        *full, current = _broken(word, font, room, country)
        lines += [set_line(part, font, country) for part in full]
    return [*lines, set_line(current, font, country)] if current or not lines else lines


def _broken(word: str, font: str, room: float, country: str) -> list[str]:
    """Breaks a word into parts that fit. Letters keep their marks."""
    if set_line(word, font, country).width <= room:
        return [word]
    parts: list[list[str]] = [[]]
    width = 0.0
    for cluster in _clusters(word):
        own = set_line(cluster, font, country).width  # joining letters may have a different width alone
        if parts[-1] and width + own > room:
            parts.append([])
            width = 0.0
        parts[-1].append(cluster)
        width += own
    return [fitting for part in parts for fitting in _trimmed(part, font, room, country)]


def _trimmed(part: list[str], font: str, room: float, country: str) -> list[str]:
    """Halves a part that is too wide after its letters were joined."""
    text = "".join(part)
    if len(part) == 1 or set_line(text, font, country).width <= room:
        return [text]
    middle = len(part) // 2
    return [*_trimmed(part[:middle], font, room, country), *_trimmed(part[middle:], font, room, country)]


def _clusters(word: str) -> Iterator[str]:
    current = ""
    for character in word:
        if current and unicodedata.category(character) not in _JOINED:
            yield current
            current = ""
        current += character
    if current:
        yield current


@lru_cache(maxsize=1024)
def set_line(text: str, font: str, country: str = "") -> Line:
    """Typesets one line of any width."""
    if is_plain(text):
        return Line(text, font, stringWidth(text, font, 1))
    weight = _WEIGHT[font]
    shown = "".join(
        c for c in text if c == " " or unicodedata.category(c) == "Cf" or _face_for(c, country, weight)
    ).strip()
    if not shown:
        return Line("", font, 0.0)
    glyphs, x = [], 0.0
    # The runs are in visual order, with mirrored brackets.
    for run, face_name, from_right in _runs(str(get_display(shown)), country, weight):
        face = _face(face_name, weight)
        buffer = hb.Buffer()
        buffer.add_str(run[::-1] if from_right else run)  # in logical order: HarfBuzz reverses it
        buffer.guess_segment_properties()
        buffer.direction = "rtl" if from_right else "ltr"
        hb.shape(face.font, buffer)
        for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
            if info.codepoint:
                glyphs.append(
                    Glyph(
                        face_name,
                        info.codepoint,
                        x + position.x_offset * face.unit,
                        position.y_offset * face.unit,
                    )
                )
            x += position.x_advance * face.unit
    return Line(text, font, x, tuple(glyphs), get_base_level(shown) == 1)


def _runs(shown: str, country: str, weight: int) -> Iterator[tuple[str, str, bool]]:
    """Yields runs: (characters in visual order, their font, whether they are right-to-left)."""
    run, face, from_right = "", "", False
    for character in shown:
        joins = character == " " or unicodedata.category(character) in _JOINED
        own = (
            face
            if joins and face and ord(character) in _face(face, weight).letters
            else _face_for(character, country, weight) or face
        )
        right = from_right if joins else unicodedata.bidirectional(character) in _RIGHT_TO_LEFT
        if run and (own != face or right != from_right):
            yield run, face, from_right
            run = ""
        run, face, from_right = run + character, own or "NotoSans", right
    if run:
        yield run, face, from_right


def with_transliterations(texts: Sequence[str]) -> list[tuple[str, bool]]:
    """Returns the texts as lines, each followed by its transliteration if that differs, and whether it is
    one."""
    lines: list[tuple[str, bool]] = []
    for text in texts:
        line = unicodedata.normalize("NFC", one_line(text, 300))
        lines.append((line, False))
        if not is_plain(line) and (plain := transliterated(line)):
            lines.append((plain, True))
    return lines
