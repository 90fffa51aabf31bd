"""Formatting for pages and diagrams: durations, and untrusted text escaped for where it is shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_HARMLESS = frozenset(" -_.,:~/+=@")
_SHOWN = 100


def duration(seconds: float | None) -> str:
    """Formats a duration: `12 ms`, `1.39 s`, `2 min 3 s`, `3 h 20 min`; empty for None, zero for a negative
    duration (a clock was set back)."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def for_mermaid(text: str, most: int = _SHOWN) -> str:
    """Escapes text for a quoted label of Mermaid: letters and digits of any script stay, other characters
    become character references where Mermaid, Markdown or HTML could interpret them. One line, shortened."""
    return "".join(c if c.isalnum() or c in _HARMLESS else f"#{ord(c)};" for c in _visible(text, most))


def for_markdown(text: str, most: int = 300) -> str:
    """Escapes text for a line or a table cell of Markdown: punctuation becomes character references, so that
    no address becomes a link. One line, shortened."""
    return "".join(c if c.isalnum() or c in " ,;'()%?" else f"&#{ord(c)};" for c in _visible(text, most))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a Markdown table. The cells of the rows are escaped, the head is not."""
    body = ["| " + " | ".join(for_markdown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body])


def for_terminal(text: str, most: int = _SHOWN) -> str:
    """Removes characters that move a terminal's cursor or change the reading direction. One line."""
    return _visible(text, most)


def _visible(text: str, most: int) -> str:
    """Replaces control and invisible characters by blanks."""
    line = " ".join(
        "".join(
            " " if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text[: 4 * most]
        ).split()
    )
    return line if len(line) <= most else line[: most - 3] + "..."
