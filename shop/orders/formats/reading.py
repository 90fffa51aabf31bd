"""A payload of another system, which remembers what of it was read.

Nothing of a payload may be lost unseen. What a mapping did not read is either known to be of no interest,
or listed in the receipt; and if it looks as if it moved money or goods, the order is refused.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from shop.orders.errors import Problem, kind
from shop.orders.field_names import is_empty

_DEEPEST = 12
"""Limits the nesting that is searched for unread fields, in levels."""
_MOST_LISTED = 40
"""Limits the places of unread fields that are listed."""
_LARGEST, _LONGEST = Decimal(10) ** 12, 40
"""Limits a number's value, and its length in characters."""
_LARGEST_WHOLE = 10**30
"""Limits whole numbers that are written: Python writes none of more than 4,300 digits."""
_SMALLEST = -30
"""Limits the exponent of an amount's last digit."""
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?")
_MOVES = re.compile(
    r"(.*_)?(amount|price|total|subtotal|fees?|tax|taxes|duty|duties|refund|refunds|refunded|discount|discounts|credit|"
    r"credits|deposit|tip|tips|surcharge|cost|quantity|qty|balance|gift_cards?|exchanges?|returns?|claims?|swaps?|"
    r"fulfillments?|payments?)(_.*)?"
)
"""Names of fields that may move money or goods."""
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,60}")


@dataclass(slots=True)
class _Log:
    read: set[str] = field(default_factory=set)
    """Places, in which `[]` stands for all entries of a list."""
    problems: list[Problem] = field(default_factory=list)


class Reading:
    """An object of the payload. A missing field is an empty one: None, 0, or an object without fields."""

    __slots__ = ("_exact", "_log", "_place", "_value")

    def __init__(
        self, value: Mapping[Any, Any], *, log: _Log | None = None, place: str = "", exact: str = ""
    ) -> None:
        self._value, self._place, self._exact = value, place, exact
        self._log = log or _Log()

    def __bool__(self) -> bool:
        """Whether it has a field with a value."""
        return not is_empty(self._value)

    def __contains__(self, name: str) -> bool:
        return name in self._value

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the whole payload; a mapping adds its own with `refuse`."""
        return self._log.problems

    def refuse(self, name: str, given: object, expected: str) -> None:
        """Adds a problem of this field. `given` must not be what a customer typed."""
        self.skip(name)
        if (problem := Problem(_join(self._exact, name), str(given), expected)) not in self._log.problems:
            self._log.problems.append(problem)

    def get(self, *names: str) -> Any:
        """Returns the first of these fields that has a value, as it is; None if none has."""
        for name in names:
            self._log.read.add(_join(self._place, name))
        return next((self._value[n] for n in names if not _is_absent(self._value.get(n))), None)

    def skip(self, *names: str) -> None:
        """Counts these fields as read."""
        self._log.read.update(_join(self._place, name) for name in names)

    def text(self, *names: str) -> str | None:
        """Returns the first of these fields that has a value, as text without blanks around it."""
        value = self.get(*names)
        if value is None or isinstance(value, str):
            return value.strip() if value else None
        if isinstance(value, Decimal) or is_whole(value):
            return str(value)
        self.refuse(names[0], kind(value), "text")
        return None

    def flag(self, name: str) -> bool:
        """Returns whether the field is true."""
        return self.get(name) in (True, "true", "yes", 1)

    def amount(self, name: str) -> Decimal:
        """Returns an exact amount; 0 if there is none."""
        value = self.get(name)
        if value is None:
            return Decimal(0)
        amount = _parsed(value)
        if amount is None:
            self.refuse(name, kind(value), "an amount such as 9.99")
        return amount or Decimal(0)

    def whole(self, name: str) -> int | None:
        """Returns a whole number; None if there is none."""
        if self.get(name) is None:
            return None
        amount = self.amount(name)
        if amount != amount.to_integral_value():
            self.refuse(name, amount, "a whole number")
            return None
        return int(amount)

    def part(self, name: str) -> Reading:
        """Returns the object in this field."""
        value = self._value.get(name)
        if not isinstance(value, Mapping):
            if not is_empty(value):
                self.refuse(name, kind(value), "an object")
            self.skip(name)
            value = {}
        return Reading(value, log=self._log, place=_join(self._place, name), exact=_join(self._exact, name))

    def texts(self, name: str) -> list[str]:
        """Returns the texts in this field, a list."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.refuse(name, kind(value), "a list of texts")
            return []
        return [each for each in value if isinstance(each, str)]

    def entries(self, name: str) -> Mapping[Any, Any]:
        """Returns the object in this field, with names of any kind."""
        value = self.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, kind(value), "an object")
            return {}
        return value or {}

    def each(self, name: str) -> list[Reading]:
        """Returns the objects in this field, a list."""
        value = self._value.get(name)
        if is_empty(value):
            self.skip(name)
            return []
        if not isinstance(value, list | tuple) or not all(isinstance(entry, Mapping) for entry in value):
            self.refuse(name, kind(value), "a list of objects")
            self.skip(name)
            return []
        place, exact = _join(self._place, name), _join(self._exact, name)
        return [
            Reading(entry, log=self._log, place=f"{place}[]", exact=f"{exact}[{i}]")
            for i, entry in enumerate(value)
        ]

    def unread(self, irrelevant: Iterable[str] = ()) -> tuple[str, ...]:
        """Returns the places of all fields with a value that nothing has read. Refuses the order for those
        that may move money or goods.

        `irrelevant`: patterns of fields of no interest: without a dot, a field's name anywhere; with dots,
        a place, with `[]` for all entries of a list.
        """
        found: dict[str, None] = {}
        read, of_no_interest = set(self._log.read), _compiled(tuple(irrelevant))
        for place, exact, moves in list(_unread(self._value, "", "", read, of_no_interest)):
            if moves:
                self._log.problems.append(
                    Problem(exact, "a value", "none: it may move money or goods, and has no place here")
                )
            else:
                found[place] = None
        places = list(found)
        more = len(places) - _MOST_LISTED
        return (*places[:_MOST_LISTED], *([f"and {more} more"] if more > 0 else ()))


def is_whole(value: object) -> bool:
    """Returns whether the value is a whole number of a length that can be written."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_WHOLE


def _parsed(value: Any) -> Decimal | None:
    if isinstance(value, float):
        value = repr(value)
    if not (isinstance(value, str | Decimal) or is_whole(value)) or len(str(value)) > _LONGEST:
        return None
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    if not amount.is_finite() or abs(amount) >= _LARGEST or amount.adjusted() < _SMALLEST:
        return None
    return amount


def _is_absent(value: Any) -> bool:
    """Returns whether the field counts as missing."""
    return (value.strip() == "" if isinstance(value, str) else value is None) or value in ([], {})


def _unread(
    value: Mapping[Any, Any], place: str, exact: str, read: set[str], irrelevant: re.Pattern[str]
) -> Iterator[tuple[str, str, bool]]:
    """Yields the places of the fields with a value that nothing has read, each with its exact place and
    whether it may move something."""
    for key, inner in value.items():
        name = key if isinstance(key, str) and _KEY.fullmatch(key) else "(a field)"
        here, at = _join(place, name), _join(exact, name)
        if here in read or is_empty(inner) or irrelevant.fullmatch(here):
            continue
        parts = inner if isinstance(inner, list | tuple) else [inner]
        below = here if parts[0] is inner else f"{here}[]"
        if here.count(".") < _DEEPEST and any(each.startswith(f"{below}.") for each in read):
            for i, part in enumerate(parts):
                if isinstance(part, Mapping):
                    exactly = at if part is inner else f"{at}[{i}]"
                    yield from _unread(part, below, exactly, read, irrelevant)
        else:
            yield here, at, _moves(name, inner)


def _moves(name: str, value: Any) -> bool:
    """Returns whether a field of this name and value may move money or goods."""
    if _MOVES.fullmatch(name.lower()) is None:
        return False
    return (
        not isinstance(value, str | bool)
        or _NUMBER.fullmatch(value.strip() if isinstance(value, str) else "") is not None
    )


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Returns an expression for the places of fields; a pattern without a dot is a field's name anywhere."""
    anywhere = r"(.*\.)?"
    expressions = [fnmatch.translate(each.replace("[]", "[[]]")) for each in patterns]
    both = zip(patterns, expressions, strict=True)
    return re.compile("|".join(x if "." in each else anywhere + x for each, x in both) or r"(?!)")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
