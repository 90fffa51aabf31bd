"""Reads the entries of a file that a command takes: JSON, one JSON object per line, or CSV with a header."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
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


class Unreadable(NamedTuple):
    """What is wrong with an entry's form."""

    why: str


class Entry(NamedTuple):
    """One entry, and its place: `line 3: `, or `payment 2: ` in a list; empty if it is not from a file."""

    place: str
    given: Any


def entries_of(
    file: str | None, noun: str, given: Mapping[str, str], needed: Mapping[str, str]
) -> list[Entry]:
    """Returns the entries of the file, or the given one, which has to have the needed fields, each with the
    argument or option that it is given by; - is standard input. Raises `InputError` with the place."""
    if file is None:
        if missing := [option for name, option in needed.items() if name not in given]:
            raise InputError(f"missing: {', '.join(missing)}. Give {', '.join(needed.values())}, or --file")
        return [Entry("", given)]
    if given:
        raise InputError(f"give --file, or one {noun}, not both")
    try:
        text = read_file(file)
        if not file.lower().endswith(".csv") and text.lstrip().startswith(("{", "[")):
            return read_json(text, noun)
        rows = _read_csv(text)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if not rows:
        raise InputError(f"{file} has no {noun}: give JSON, or CSV with a header and a line for each")
    return rows


def read_file(file: str) -> str:
    """Returns the text of the file; - is standard input. Raises `InputError` without the file's name."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"not UTF-8 text: line {line}, byte {error.start + 1:,} of the file") from None
    except OSError as error:
        raise InputError(error.strerror or str(error)) from None


def read_each(
    entries: Iterable[Entry],
    read: Callable[[Any], T],
    refusal: type[NotReceivable | InvalidDelivery],
    shared: Mapping[str, str | None],
    options: Mapping[str, str],
) -> tuple[list[T], list[str]]:
    """Reads the entries, with the shared fields where they have none. Returns what was read, and the problems
    of those that `read` refuses with this error. `options`: how a single entry's fields are given, and the
    shared ones."""
    rest = {name: value for name, value in shared.items() if value is not None}
    made, problems = [], []
    for place, given in entries:
        if isinstance(given, Unreadable):
            problems.append(f"{place}{given.why}")
            continue
        try:
            made.append(read({**rest, **given} if isinstance(given, dict) else given))
        except refusal as error:
            problems += [f"{place}{_by_option(reason, place, options)}" for reason in error.reasons()]
    return made, problems


def _by_option(reason: str, place: str, options: Mapping[str, str]) -> str:
    """Names the option that a field is given by."""
    name, colon, rest = reason.partition(":")
    if name not in options:
        return reason
    if not place:
        return f"{options[name]}{colon}{rest}"
    return f"{reason} (or give {options[name]} for all)" if rest == " missing" else reason


def refuse(console: Console, why: str, code: int) -> int:
    """Prints why nothing is recorded. Returns the exit code."""
    console.print(Text(why, "red"))
    return code


def _read_csv(text: str) -> list[Entry]:
    """Reads CSV whose columns are separated by commas or, as its header shows, semicolons or tabs."""
    header = text.lstrip().partition("\n")[0]
    separator = next((each for each in ";\t" if each in header and "," not in header), ",")
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    names = Counter(name.strip() for name in reader.fieldnames or ())
    if twice := [name for name, count in names.items() if name and count > 1]:
        raise InputError(f"the header has a name twice: {', '.join(twice)}")
    rows: list[tuple[int, dict[str | None, Any]]] = []
    try:
        rows += ((reader.line_num, row) for row in reader)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is not CSV: {error}") from None
    return [Entry(f"line {line}: ", _row(row)) for line, row in rows]


def _row(row: dict[str | None, Any]) -> Any:
    """Returns the row's values by column, or an `Unreadable` row."""
    if None in row:
        return Unreadable("more columns than the header")
    return {str(name).strip(): value for name, value in row.items() if value not in {None, ""}}


def listed(problems: list[str]) -> InputError:
    """Returns the error with these problems, of which it shows a limited number."""
    more = [f"and {len(problems) - _MOST_PROBLEMS} more problems"] if len(problems) > _MOST_PROBLEMS else []
    return InputError("\n".join([*problems[:_MOST_PROBLEMS], *more]))


def read_orders(text: str) -> list[Any]:
    """Parses a JSON list of orders, one order, or one order per line. Raises InputError with the place."""
    return [entry.given for entry in read_json(text, "order")]


def read_json(text: str, noun: str) -> list[Entry]:
    """Parses a JSON list of entries, one entry, or one entry per line, as strictly as the web app. Keeps
    numbers exact. Raises InputError with the place."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    try:
        parsed = exact_json.loads(text)
    except RecursionError:
        raise InputError("nested too deeply") from None
    except (exact_json.UnusableJson, JSONDecodeError) as whole:
        lines = [
            (number, line.removeprefix(_BYTE_ORDER_MARK))
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
        if len(lines) < 2 or not (isinstance(whole, JSONDecodeError) or _is_json(lines[0][1])):
            raise InputError(f"not JSON: {_why(whole)}") from None
        return [Entry(f"line {number}: ", _read_line(number, line)) for number, line in lines]
    if not parsed:
        raise InputError(f"it contains no {noun}")
    entries = parsed if isinstance(parsed, list) else [parsed]
    return [Entry(f"{noun} {number}: ", each) for number, each in enumerate(entries, 1)]


def _read_line(number: int, line: str) -> Any:
    try:
        return exact_json.loads(line)
    except (exact_json.UnusableJson, JSONDecodeError, RecursionError) as error:
        why = f"{error.msg} in column {error.colno}" if isinstance(error, JSONDecodeError) else _why(error)
        raise InputError(f"line {number} is not JSON: {why}") from None


def _is_json(line: str) -> bool:
    """Returns whether the line alone is JSON, though perhaps unusable."""
    try:
        json.loads(line, parse_int=len, parse_float=len)
    except (JSONDecodeError, RecursionError):
        return False
    return True


def _why(error: Exception) -> str:
    if isinstance(error, JSONDecodeError):
        return f"{error.msg} in line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
