"""What is written to a terminal: no control characters in it but our own, since texts may be a customer's, a gateway's or an attacker's."""

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
    """Writes JSON, which means the same as before: control characters stand in it as escapes."""
    print(text.translate(_ESCAPED), flush=True)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich. `width`: without a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return _TameConsole(stderr=stderr, width=None if stream.isatty() else width)


class _TameConsole(Console):
    """Tames every text when it is laid out; what rich itself has to say to the terminal comes later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)
