"""Reads the entries of a file that a command takes: JSON, one JSON object per line, or CSV with a header."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

from deployments.cli.submit import InputError, read_orders

MOST_PROBLEMS = 25
"""Limits the problems that are shown."""


class Entry(NamedTuple):
    """One entry, and where it stands: `line 3`, or `payment 2` in JSON."""

    place: str
    given: Any


def read_entries(file: str, noun: str) -> list[Entry]:
    """Returns the file's entries; - is standard input. Raises `InputError` with the place, and `OSError`."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    if file.lower().endswith(".csv") or not text.lstrip().startswith(("{", "[")):
        reader = csv.DictReader(io.StringIO(text))
        rows = [Entry(f"line {reader.line_num}", _row(reader.line_num, row)) for row in reader]
        if not rows:
            raise InputError(f"{file} has no {noun}: give JSON, or CSV with a header and a line for each")
        return rows
    try:
        return [Entry(f"{noun} {number}", each) for number, each in enumerate(read_orders(text), 1)]
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _row(line: int, row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row:
        raise InputError(f"line {line} has more columns than the header")
    return {str(name).strip(): value for name, value in row.items() if value not in {None, ""}}


def listed(problems: list[str]) -> InputError:
    """Returns the error with these problems, of which it shows a limited number."""
    more = [f"and {len(problems) - MOST_PROBLEMS} more problems"] if len(problems) > MOST_PROBLEMS else []
    return InputError("\n".join([*problems[:MOST_PROBLEMS], *more]))
