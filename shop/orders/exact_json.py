"""JSON with exact numbers of limited size.

The limit is checked before a decimal becomes an integer: `int(Decimal("1e999999999"))` takes minutes and
cannot be interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

_MAX_CHARACTERS = 100
_MAX_EXPONENT = 308
"""Limits the power of ten of the largest and the smallest number: the range of 64-bit floats, which most
JSON readers use."""


class NumberOutOfRange(ValueError):
    """A number that common JSON readers cannot represent."""


def loads(
    text: str,
    *,
    parse_constant: Callable[[str], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Parses JSON like `json.loads`, with decimals instead of floats. Also raises `NumberOutOfRange`."""
    return json.loads(
        text,
        parse_float=_decimal,
        parse_int=_integer,
        parse_constant=parse_constant,
        object_pairs_hook=object_pairs_hook,
    )


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
