"""Reads the entries of a file that a command takes: JSON, one JSON object per line, or CSV with a header."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.text import Text

from shop.inventory.errors import InvalidDelivery
from shop.orders import exact_json
from shop.payments.errors import NotReceivable

_MOST_PROBLEMS = 25
"""Limits the problems that are shown."""
_BYTE_ORDER_MARK = "\ufeff"
"""Some programs write it at the beginning of a file; concatenated files have it at the beginning of other
lines, too."""
T = TypeVar("T")


class InputError(Exception):
    """The input is invalid; the message says where."""


class Entry(NamedTuple):
    """One entry, and where it stands: `line 3: `, or `payment 2: ` in JSON; empty if it is no file's."""

    place: str
    given: Any


def entries_of(
    file: str | None, noun: str, given: Mapping[str, str], needed: Iterable[str], how: str
) -> list[Entry]:
    """Returns the entries of the file, or the given one, which has to have the needed fields; - is standard
    input. `how`: how the fields are given. Raises `InputError` with the place, and `OSError`."""
    if file is None:
        if missing := [name for name in needed if name not in given]:
            raise InputError(f"missing: {', '.join(missing)}. Give {how}, or --file")
        return [Entry("", given)]
    if given:
        raise InputError(f"give --file, or one {noun}, not both")
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    if file.lower().endswith(".csv") or not text.lstrip().startswith(("{", "[")):
        reader = csv.DictReader(io.StringIO(text))
        rows = [Entry(f"line {reader.line_num}: ", _row(reader.line_num, row)) for row in reader]
        if not rows:
            raise InputError(f"{file} has no {noun}: give JSON, or CSV with a header and a line for each")
        return rows
    try:
        return [Entry(f"{noun} {number}: ", each) for number, each in enumerate(read_orders(text), 1)]
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def read_each(
    entries: Iterable[Entry],
    read: Callable[[Any], T],
    refusal: type[NotReceivable | InvalidDelivery],
    shared: Mapping[str, str | None],
) -> tuple[list[T], list[str]]:
    """Reads the entries, with the shared fields where they have none. Returns what was read, and the problems
    of those that `read` refuses with this error."""
    rest = {name: value for name, value in shared.items() if value is not None}
    made, problems = [], []
    for place, given in entries:
        try:
            made.append(read({**rest, **given} if isinstance(given, dict) else given))
        except refusal as error:
            problems += [f"{place}{reason}" for reason in error.reasons()]
    return made, problems


def refuse(console: Console, why: str, code: int) -> int:
    """Says why nothing is recorded. Returns the exit code."""
    console.print(Text(why, "red"))
    return code


def _row(line: int, row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row:
        raise InputError(f"line {line} has more columns than the header")
    return {str(name).strip(): value for name, value in row.items() if value not in {None, ""}}


def listed(problems: list[str]) -> InputError:
    """Returns the error with these problems, of which it shows a limited number."""
    more = [f"and {len(problems) - _MOST_PROBLEMS} more problems"] if len(problems) > _MOST_PROBLEMS else []
    return InputError("\n".join([*problems[:_MOST_PROBLEMS], *more]))


def read_orders(text: str) -> list[Any]:
    """Parses a JSON list of orders, one order, or one order per line. Keeps numbers exact. Raises
    InputError with the place."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    try:
        parsed = exact_json.loads(text)
    except RecursionError:
        raise InputError("nested too deeply") from None
    except exact_json.NumberOutOfRange as error:
        raise InputError(f"it has {error}") from None
    except JSONDecodeError as whole:
        lines = [
            (number, line.removeprefix(_BYTE_ORDER_MARK))
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
        if len(lines) < 2:
            raise InputError(f"not JSON: {whole.msg} in line {whole.lineno}, column {whole.colno}") from None
        return [_read_line(number, line) for number, line in lines]
    if not parsed:
        raise InputError("it contains no order")
    return parsed if isinstance(parsed, list) else [parsed]


def _read_line(number: int, line: str) -> Any:
    try:
        return exact_json.loads(line)
    except exact_json.NumberOutOfRange as error:
        raise InputError(f"line {number} has {error}") from None
    except (JSONDecodeError, RecursionError) as error:
        raise InputError(f"line {number} is not JSON: {error}") from None
