"""Writes to a terminal. Removes control characters, because texts may come from customers, a gateway or an
attacker."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from shop.text.sanitize import NOT_FOR_TERMINALS, tame

_ESCAPED = {code: f"\\u{code:04x}" for code in NOT_FOR_TERMINALS if code >= 0x20}


def write(text: str, to: TextIO | None = None) -> None:
    """Writes lines of text for people."""
    print(tame(text), file=to or sys.stdout, flush=True)


def write_json(text: str) -> None:
    """Writes JSON with control characters as escapes, which mean the same."""
    print(text.translate(_ESCAPED), flush=True)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Returns a rich console. `width`: for output that is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return _SanitizingConsole(stderr=stderr, width=None if stream.isatty() else width)


def refused(why: str, code: int = 2) -> int:
    """Says why a command does nothing more. Returns its exit code."""
    write(why, sys.stderr)
    return code


def table(title: str | Text | None, *columns: str) -> Table:
    """Returns an empty table. `>` before a column's name aligns it to the right, as in format strings."""
    made = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if name != column else "left", overflow="fold")
    return made


class _SanitizingConsole(Console):
    """Sanitizes every text when it is rendered; rich adds its own control sequences later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)
