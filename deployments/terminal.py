"""Writes to a terminal. Removes control characters, because texts may come from customers, a gateway or an
attacker."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
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
    """Prints why a command stops. Returns its exit code."""
    write(why, sys.stderr)
    return code


def table(
    title: str | Text | None,
    *columns: str,
    wrapped: Collection[str] = (),
    optional: Sequence[str] = (),
    keys: int = 0,
) -> FittedTable:
    """Returns an empty table. `>` before a column's name aligns it to the right, as in format strings.

    Values stay whole at every width, but for those of the `wrapped` columns, which continue in the next line
    after a blank. If a terminal is too narrow, the `optional` columns are left out, the first one first, and
    the table says which; then the others follow in further tables, each with the first `keys` columns; or, if
    that does not help, each value has a line of its own."""
    return FittedTable(title, columns, wrapped=wrapped, optional=optional, keys=keys)


_LONGEST_WORD = 24
"""Width from which a word of a wrapped column may be folded."""
_WORD = re.compile(r"(?:\S|(?<=\d) (?=(?:ms|s|min|h|d|B|MB|%|[A-Z]{3})\b))+")
"""A word, or a number and its unit."""


class FittedTable:
    """A table that fits the terminal's width without cutting values."""

    def __init__(
        self,
        title: str | Text | None,
        columns: Sequence[str],
        *,
        wrapped: Collection[str],
        optional: Sequence[str],
        keys: int,
    ) -> None:
        self._title = Text(title, "italic") if isinstance(title, str) else title
        self._names = [name.removeprefix(">") for name in columns]
        self._right = [name.startswith(">") for name in columns]
        self._wrapped = [name in wrapped for name in self._names]
        self._optional = [self._names.index(name) for name in optional]
        self._keys = keys
        self._rows: list[list[Text]] = []
        self._known_widths: dict[int, tuple[int, int]] = {}

    def add_row(self, *cells: str | Text) -> None:
        """Adds a row. Missing cells at its end are empty."""
        row = [Text(tame(cell)) if isinstance(cell, str) else cell for cell in cells]
        self._rows.append(row + [Text()] * (len(self._names) - len(row)))
        self._known_widths.clear()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        width = options.max_width
        if self._title is not None:
            yield self._title
        every = list(range(len(self._names)))
        if self._least(every, roomy=True) <= width:
            yield self._part(every, width, roomy=True)
            return
        shown, left_out = every, list[str]()
        for column in self._optional:
            if self._least(shown) <= width:
                break
            shown = [each for each in shown if each != column]
            left_out.append(self._names[column])
        yield from self._parts(shown, width)
        if left_out:
            yield Text(f"Not shown at this width: {', '.join(left_out)}", "dim")
        yield Text()

    def _parts(self, columns: list[int], width: int) -> Iterator[RenderableType]:
        if self._least(columns) <= width:
            yield self._part(columns, width)
            return
        keys, others = columns[: self._keys], columns[self._keys :]
        if not keys or any(self._least([*keys, each]) > width for each in others):
            yield self._lines(columns)
            return
        while others:
            fitting = max(n for n in range(1, len(others) + 1) if self._least([*keys, *others[:n]]) <= width)
            yield self._part([*keys, *others[:fitting]], width)
            others = others[fitting:]

    def _least(self, columns: Sequence[int], *, roomy: bool = False) -> int:
        """Returns the least width of a table of these columns."""
        return sum(self._least_width(column) for column in columns) + _space(len(columns), roomy=roomy)

    def _texts(self, column: int) -> Iterator[str]:
        yield self._names[column]
        for row in self._rows:
            yield from tame(row[column].plain).splitlines()

    def _natural_width(self, column: int) -> int:
        return self._column_widths(column)[1]

    def _least_width(self, column: int) -> int:
        return self._column_widths(column)[0]

    def _column_widths(self, column: int) -> tuple[int, int]:
        """Returns the least width of the column, and the one that it takes if there is room."""
        if (known := self._known_widths.get(column)) is not None:
            return known
        texts = set(self._texts(column))
        least = natural = max(1, *map(cell_len, texts))
        if self._wrapped[column]:
            words = (cell_len(word) for text in texts for word in _WORD.findall(text))
            least = min(natural, max(min(_LONGEST_WORD, max(words, default=1)), _LONGEST_WORD // 2))
        self._known_widths[column] = least, natural
        return least, natural

    def _widths(self, columns: Sequence[int], width: int, *, roomy: bool) -> dict[int, int]:
        """Returns the columns' widths: what is left is shared by those that need more."""
        widths = {column: self._least_width(column) for column in columns}
        left = width - self._least(columns, roomy=roomy)
        needs = sorted((self._natural_width(column) - widths[column], column) for column in columns)
        for number, (need, column) in enumerate(needs):
            more = min(need, left // (len(needs) - number))
            widths[column] += more
            left -= more
        return widths

    def _part(self, columns: Sequence[int], width: int, *, roomy: bool = False) -> Table:
        part = Table(
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1) if roomy else (0, 1, 0, 0),
            pad_edge=roomy,
            show_edge=roomy,
            show_header=any(self._names[column].strip() for column in columns),
        )
        widths = self._widths(columns, width, roomy=roomy)
        for column in columns:
            justify: JustifyMethod = "right" if self._right[column] else "left"
            part.add_column(Text(self._names[column]), justify=justify, overflow="fold", width=widths[column])
        for row in self._rows:
            part.add_row(*(_lines(row[column], widths[column]) for column in columns))
        return part

    def _lines(self, columns: Sequence[int]) -> Table:
        """Shows each value in a line of its own."""
        lines = Table.grid(padding=(0, 1))
        lines.add_column(style="bold", no_wrap=True)
        lines.add_column(overflow="fold")
        for row in self._rows:
            for column in columns:
                if row[column].plain:
                    lines.add_row(Text(self._names[column]), row[column])
            lines.add_row()
        return lines


def _lines(text: Text, width: int) -> Text:
    """Breaks the text into lines of at most this width, between words and not before a unit."""
    if cell_len(text.plain) <= width:
        return text
    breaks = []
    for line in re.finditer(r"[^\n]+", text.plain):
        begin = line.start()
        for word in _WORD.finditer(text.plain, line.start(), line.end()):
            if word.start() > begin and cell_len(text.plain[begin : word.end()]) > width:
                breaks.append(begin := word.start())
    lines = text.divide(breaks)
    for each in lines[:-1]:
        if not each.plain.endswith("\n"):
            each.rstrip()
            each.append("\n")
    return Text().join(lines)


def _space(columns: int, *, roomy: bool) -> int:
    """Returns the width between and beside so many columns."""
    return 3 * columns + 1 if roomy else 2 * (columns - 1)


class _SanitizingConsole(Console):
    """Sanitizes every text when it is rendered; rich adds its own control sequences later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)
