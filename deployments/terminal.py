"""Writes to a terminal. Removes control characters, because texts may come from customers, a gateway or an
attacker."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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


class _SanitizingConsole(Console):
    """Sanitizes every text when it is rendered; rich adds its own control sequences later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)
