"""Tables of plain text, 80 columns wide, in a terminal as in a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
_NARROWEST = 16
"""The least width of the first column."""


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table. The first column is text, which is wrapped between words; the others are aligned to
    the right. A cell of the head may have several lines.

    Raises ValueError if the columns leave no room for the first one.
    """
    heads = [cell.split("\n") for cell in head]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(head)
    widths = [
        max(len(text) for text in (*heads[i], *columns[i])) if (heads[i] or columns[i]) else 0
        for i in range(1, len(head))
    ]
    room = WIDTH - sum(width + 2 for width in widths)
    if room < _NARROWEST:
        raise ValueError(f"{title}: the columns leave {room} characters for the first one")
    first = min(room, max((len(text) for text in (*heads[0], *columns[0])), default=0))
    tall = max(len(lines) for lines in heads)
    top = [[""] * (tall - len(lines)) + lines for lines in heads]
    lines = [title, ""]
    lines += [_line(first, widths, [cell[i] for cell in top]) for i in range(tall)]
    lines.append("─" * (first + sum(width + 2 for width in widths)))
    for row in rows:
        wrapped = textwrap.wrap(row[0], first, subsequent_indent="  ") or [""]
        lines.append(_line(first, widths, [wrapped[0], *row[1:]]))
        lines += wrapped[1:]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def number(value: float | None) -> str:
    """Returns a number with three digits, or all digits before the point: 0.0123, 1.23, 12.3, 1,234."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _line(first: int, widths: Sequence[int], cells: Sequence[str]) -> str:
    rest = "".join(f"  {cell:>{width}}" for cell, width in zip(cells[1:], widths, strict=True))
    return f"{cells[0]:<{first}}{rest}"
