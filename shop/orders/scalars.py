"""The scalar types of an order: exact amounts, texts, whole numbers, times; `null` and an empty text mean
"left out" wherever a field is optional."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

_CENT = Decimal("0.01")
_MAX_DIGITS, _MAX_DECIMALS = 18, 6
_LARGEST = 10 ** (_MAX_DIGITS - _MAX_DECIMALS) - 1
"""The largest number in an order. Larger parameters (over 64 bits) break the Prefect server's list of
runs."""
_EXACT = Context(prec=80)
"""Python's default context would round numbers with more than 28 digits."""
_USUAL_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,11})\.[0-9]{2}")
"""The usual spelling of amounts, which needs no further check."""


def _amount(value: Any) -> Decimal:
    """Returns the exact amount in one spelling: 9.9, 9.90 and 9.900 are the same order. A JSON float
    counts as its shortest decimal spelling. Booleans are not amounts."""
    if type(value) is str and _USUAL_AMOUNT.fullmatch(value):
        return Decimal(value)
    if isinstance(value, float):
        value = repr(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | Decimal)
        or (isinstance(value, str) and len(value) > 40)
    ):
        raise ValueError("an amount such as 9.99")
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):  # ValueError: an integer of thousands of digits
        raise ValueError("an amount such as 9.99") from None
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or len(digits) > 60:
        raise ValueError("a finite amount" if len(digits) <= 60 else "an amount such as 9.99")
    if amount.adjusted() >= _MAX_DIGITS - _MAX_DECIMALS:
        raise ValueError(f"an amount of at most {_MAX_DIGITS - _MAX_DECIMALS} digits before the point")
    if not amount:
        return Decimal("0.00")
    if exponent == -2:
        return amount
    amount = amount.normalize(_EXACT)
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        raise ValueError(f"an amount of at most {_MAX_DECIMALS} decimals")
    return amount if exponent < -2 else amount.quantize(_CENT)


Amount = Annotated[
    Decimal,
    PlainValidator(_amount),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
                {"type": "string", "pattern": r"^-?\d{1,12}(\.\d{1,6})?$"},
            ]
        }
    ),
]
"""Money without currency: up to twelve digits before the point and six after it."""


def _text(value: Any) -> Any:
    """Accepts numbers as ids and zip codes, as some shops send them."""
    is_id = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30
    return str(value) if is_id else value


Text = Annotated[str, BeforeValidator(_text)]


def _whole(value: Any) -> Any:
    """Limits a decimal before it becomes an integer, which takes minutes for 1e999999999. Rejects
    booleans, which Python counts as integers."""
    if isinstance(value, bool) or (isinstance(value, Decimal) and not value.is_finite()):
        raise ValueError("a whole number")
    if isinstance(value, Decimal) and (
        abs(value.adjusted()) > _MAX_DIGITS or len(value.as_tuple().digits) > 60
    ):
        raise ValueError(f"a whole number of at most {_MAX_DIGITS - _MAX_DECIMALS} digits")
    return value


Pieces = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST), BeforeValidator(_whole)]


_MAX_FACTS, _MAX_FACT_DEPTH = 100, 4
_INT64 = 2**63
"""JSON in the database has larger integers as texts."""


def is_left_out(value: Any) -> bool:
    """Returns whether the value means "left out": null, a blank text, or an object of nothing else."""
    return all(map(is_left_out, value.values())) if isinstance(value, Mapping) else _is_blank(value)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _optional_text(value: Any) -> Any:
    if type(value) is str:
        return value if value.strip() else None
    return None if value is None else _text(value)


def none_if_left_out(value: Any) -> Any:
    """Returns None for a value that means "left out"."""
    return None if is_left_out(value) else value


def _if_left_out(default: Any) -> BeforeValidator:
    """Validates a field that has this value if it is left out."""
    return BeforeValidator(lambda value: default if _is_blank(value) else value)


def _moment(value: Any) -> Any:
    """Requires a time zone: a wall clock's time is a different moment in each of them."""
    if isinstance(value, str) and value.strip():
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("a time such as 2031-02-03T04:05:06+01:00") from None
    if not isinstance(value, datetime):
        return none_if_left_out(value)
    if value.utcoffset() is None:
        raise ValueError("a time with its time zone, such as 2031-02-03T04:05:06+01:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time such as 2031-02-03T04:05:06+01:00") from None


def _facts(value: Any, depth: int = 0) -> Any:
    """Returns plain JSON of limited size; decimals become numbers if that keeps them exact."""
    if isinstance(value, Mapping) and depth < _MAX_FACT_DEPTH:
        entries = list(value.items())[:_MAX_FACTS]
        return {str(key): _facts(each, depth + 1) for key, each in entries}
    if isinstance(value, list | tuple) and depth < _MAX_FACT_DEPTH:
        return [_facts(each, depth + 1) for each in value[:_MAX_FACTS]]
    if isinstance(value, Decimal):
        exact = value.is_finite() and math.isfinite(number := float(value)) and Decimal(repr(number)) == value
        return number if exact else str(value)
    if isinstance(value, int) and abs(value) >= _INT64:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else None


def _metadata(value: Any) -> Any:
    if is_left_out(value) or value == []:
        return None
    if not isinstance(value, Mapping):
        raise ValueError("an object")
    return None if is_left_out(facts := _facts(value)) else facts


def _properties(value: Any) -> Any:
    if is_left_out(value) or value == []:
        return None
    if not isinstance(value, Mapping):
        raise ValueError("an object of texts")
    entries = [(str(key), _text(each)) for key, each in list(value.items())[:_MAX_FACTS]]
    return {key: text.strip() for key, text in entries if isinstance(text, str) and text.strip()} or None


OptionalText = Annotated[str | None, BeforeValidator(_optional_text)]
OptionalAmount = Annotated[Amount | None, BeforeValidator(none_if_left_out)]
AmountOrZero = Annotated[Amount, _if_left_out(Decimal("0.00"))]
OptionalPieces = Annotated[Pieces | None, BeforeValidator(none_if_left_out)]
Flag = Annotated[bool, _if_left_out(False)]
Moment = Annotated[
    datetime | None,
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}),
]
"""An optional time, in UTC."""
Metadata = Annotated[dict[str, Any] | None, BeforeValidator(_metadata)]
Properties = Annotated[dict[str, str] | None, BeforeValidator(_properties)]
Listed = _if_left_out(())
"""For lists that may be left out. Tuples, because an empty one is no object of each order's own."""
Currency = Annotated[Text, AfterValidator(str.upper)]
