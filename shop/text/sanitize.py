"""Sanitises text: removes control characters, invisible characters and changes of direction."""

from __future__ import annotations

import unicodedata

UNSEEN = (
    r"\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    r"\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Invisible characters, for a character class of a pattern: blanks, controls, and Unicode's default
ignorables."""
_INVISIBLE = [
    0xAD,
    0x61C,
    0x180E,
    0x200B,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2060, 0x206A),
    0xFEFF,
]
_CONTROLS = [
    code
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85"
]
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
_DROPPED: dict[int, None] = dict.fromkeys([*_CONTROLS, *_INVISIBLE, *range(0xD800, 0xE000)])


_BIDIRECTIONAL = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
NOT_FOR_TERMINALS = frozenset(
    {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *_BIDIRECTIONAL, *range(0xD800, 0xE000)} - {*b"\t\n"}
)
"""Characters that terminals interpret or cannot show. U+009B, a C1 control, starts a command like ESC [."""
_SHOWN = dict.fromkeys(NOT_FOR_TERMINALS, "\ufffd")


def tame(text: str) -> str:
    """Returns the text for a terminal: each control character is replaced, except tabs and line ends."""
    return text if text.isascii() and text.isprintable() else text.translate(_SHOWN)


def one_line(text: str | None, limit: int = 200) -> str:
    """Returns the text as one line of at most `limit` characters. Keeps the joiners that scripts and emoji
    need."""
    if not text:
        return ""
    if len(text) <= limit and text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    line = " ".join(text.translate(_DROPPED).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


def printable(text: str, limit: int = 300) -> str:
    """Returns a third party's text in printable characters. Truncates it to `limit` characters, marked by
    dots."""
    return "".join(
        c if c.isprintable() else "?" for c in (text if len(text) <= limit else f"{text[: limit - 3]}...")
    )


def paragraphs(text: str, limit: int = 20_000) -> str:
    """Returns the text with each line cleaned as by `one_line`, and at most one empty line in a row."""
    lines: list[str] = []
    for raw in text.translate(_DROPPED).splitlines():
        line = " ".join(raw.split())
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip()[:limit]


def folded(text: str) -> str:
    """Normalises full-width letters, dashes and blanks. For comparisons, not for display."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_DROPPED).translate(_DASHES).split())
