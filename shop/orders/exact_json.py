"""JSON with exact numbers of limited size, read strictly: what parsers may interpret differently is refused.

The limit is checked before a decimal becomes an integer: `int(Decimal("1e999999999"))` takes minutes and
cannot be interrupted.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

_MAX_CHARACTERS = 100
_MAX_EXPONENT = 308
"""Limits the power of ten of the largest and the smallest number: the range of 64-bit floats, which most
JSON readers use."""


class UnusableJson(ValueError):
    """JSON that parsers may interpret differently."""


class NumberOutOfRange(UnusableJson):
    """A number that common JSON readers cannot represent."""


def loads(text: str) -> Any:
    """Parses JSON like `json.loads`, with decimals instead of floats. Also raises `UnusableJson`."""
    return json.loads(
        text,
        parse_float=_decimal,
        parse_int=_integer,
        parse_constant=_reject_constant,
        object_pairs_hook=_object,
    )


def _reject_constant(text: str) -> None:
    raise UnusableJson(f"{text} is not a number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise UnusableJson("an object has a name twice")
    return made


def _decimal(text: str) -> Decimal:
    if len(text) > _MAX_CHARACTERS:
        raise NumberOutOfRange(f"a number of more than {_MAX_CHARACTERS} characters")
    try:
        number = Decimal(text)
    except InvalidOperation:  # the exponent has more digits than a decimal allows
        number = None
    if number is None or abs(number.adjusted()) > _MAX_EXPONENT:
        raise NumberOutOfRange(f"a number outside of 1e-{_MAX_EXPONENT} to 1e{_MAX_EXPONENT}")
    return number


def _integer(text: str) -> int:
    if len(text) > _MAX_CHARACTERS:
        raise NumberOutOfRange(f"a number of more than {_MAX_CHARACTERS} characters")
    return int(text)
