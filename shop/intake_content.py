"""From whatever somebody sent to what may be stored: an id, clean JSON, and a fingerprint.

Nothing that looks like a card number gets past here, in any field, known or not. What is removed leaves a mark in its
place, so that validation can tell the customer where it was without repeating it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from shop.errors import Problem, UnusableOrder
from shop.names import MAX_ORDER_ID
from shop.order import Order

REMOVED = "[removed: "
CARD_REMOVED = "[removed: looked like a card number]"
CODE_REMOVED = "[removed: looked like a card's security code]"
TOO_LONG = "[removed: was longer than 2,000 characters]"
TOO_DEEP = "[removed: was nested too deeply]"
TOO_MANY = "[removed: had more than 1,000 entries]"
NOT_JSON = "[removed: was not JSON]"
CONTROL = "[removed: contained control characters]"

HAS_REMOVED = "~removed"
"""The key by which content says that something was taken out of it."""

MAX_DEPTH = 8
"""Levels of lists and objects; what is nested deeper is not kept."""
_MAX_TEXT, _MAX_ENTRIES = 2_000, 1_000
# Digits in groups, with the separators that people type.
_SEPARATOR = r"[\s.\-\u2010-\u2015\u2212]{1,3}"
_DIGIT_GROUPS = re.compile(rf"\d+(?:{_SEPARATOR}\d+)*")
_SHORTEST, _LONGEST = 13, 19  # ISO/IEC 7812
_ENOUGH_DIGITS = re.compile(rf"\d(?:(?:{_SEPARATOR})?\d){{12}}")
UUID = r"(?<![0-9A-Za-z])(?=[0-9-]*[A-Fa-f])(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})(?![0-9A-Za-z])"
"""An id as programs make it (RFC 9562), with a letter at least: one in a thousand has digits in a row that would pass for a card number."""
_UUID = re.compile(UUID)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ESCAPED_CONTROL = re.compile(r"\\u00[01]|\\[bf]")
_ESCAPED_SPACE = re.compile(r"\\[ntr]")
_PERHAPS_CODE = ("cvv", "cvc", "csc", "security")
_CODE_FIELD = re.compile(r".*(cvv|cvc|securitycode).*|csc")
_KNOWN_FIELDS = frozenset(Order.model_fields)


@dataclass(frozen=True, slots=True)
class Content:
    """An order fit to be stored."""

    order_id: str
    text: str
    """JSON. Of a well-shaped order: all fields of `Order`, normalised, so that 9.9 and "9.90" are the same."""
    fingerprint: str
    """Same fingerprint, same order: SHA-256 of `text`."""


def looks_like_card_number(text: str) -> bool:
    """Whether some digits in it, from one separator to another, have a card number's length, first digit and check digit (ISO/IEC 7812,
    Luhn). Those of a UUID are none."""
    if not _ENOUGH_DIGITS.search(text):  # nearly always
        return False
    for found in _DIGIT_GROUPS.finditer(_UUID.sub("x", text)):
        if found.end() - found.start() < _SHORTEST:
            continue
        groups = re.split(_SEPARATOR, found.group())
        for first in range(len(groups)):
            digits = ""
            for group in groups[first:]:
                digits += group
                if len(digits) > _LONGEST:
                    break
                if len(digits) >= _SHORTEST and _is_card_number(digits):
                    return True
    return False


def _is_card_number(text: str) -> bool:
    digits = [int(c) for c in text]
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]
    return digits[0] in {2, 3, 4, 5, 6} and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def take_in(raw: object) -> Content:
    """Makes any order storable, or raises `UnusableOrder` when it has no usable id."""
    if isinstance(raw, BaseModel):
        raw = raw.model_dump(mode="json")
    if not isinstance(raw, Mapping):
        raise UnusableOrder([Problem("order", _kind(raw), "an object with an id")])
    order_id = usable_id(raw.get("id"))
    text = _plain_case(raw) or _any_case(raw, order_id)
    return Content(order_id, text, hashlib.sha256(text.encode()).hexdigest())


def usable_id(given: object) -> str:
    """The id as it is stored. Raises `UnusableOrder` for what can be no order's id."""
    expected = f"text of 1 to {MAX_ORDER_ID} characters"
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 10**30:
        given = str(given)
    if not isinstance(given, str) or not given.strip():
        raise UnusableOrder([Problem("id", "nothing" if given is None or isinstance(given, str) else _kind(given), expected)])
    order_id = given.strip()
    if len(order_id) > MAX_ORDER_ID:
        raise UnusableOrder([Problem("id", f"{len(order_id)} characters", expected)])
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in order_id):
        raise UnusableOrder([Problem("id", "control characters in it", expected)])
    if looks_like_card_number(order_id):
        raise UnusableOrder([Problem("id", "what looks like a card number", "an id that is not one")])
    return order_id


def _plain_case(raw: Mapping[Any, Any]) -> str | None:
    """The usual order, well-shaped and harmless: its normalised JSON. None if there is anything to look at closer."""
    try:
        order = Order.model_validate(raw)
        everything = orjson.dumps(raw, default=str).decode()
    except (ValidationError, TypeError, ValueError, RecursionError):  # orjson refuses what is not JSON by itself
        return None
    lower = everything.lower()
    if REMOVED in everything or "\x7f" in everything or any(name in lower for name in _PERHAPS_CODE):
        return None
    if "\\" in everything:
        if _ESCAPED_CONTROL.search(everything):
            return None
        everything = _ESCAPED_SPACE.sub(" ", everything)
    if looks_like_card_number(everything):
        return None
    if len(everything) > _MAX_TEXT:  # something in it may be too much
        return None
    return order.model_dump_json()


def _any_case(raw: Mapping[Any, Any], order_id: str) -> str:
    cleaned = {**_clean(raw, 0), "id": order_id}
    cleaned.pop(HAS_REMOVED, None)  # ours to say
    text = json.dumps(cleaned, sort_keys=True, ensure_ascii=False)
    if REMOVED in text:
        return json.dumps({**cleaned, HAS_REMOVED: True}, sort_keys=True, ensure_ascii=False)
    try:  # only the closer look found it harmless
        return Order.model_validate(cleaned).model_dump_json()
    except ValidationError:
        return text


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, Mapping):
        entries = list(value.items())
        more = {"~more": TOO_MANY} if len(entries) > _MAX_ENTRIES else {}
        if more:  # fields that an order has are not lost behind others
            entries = [e for e in entries if e[0] in _KNOWN_FIELDS] + [e for e in entries if e[0] not in _KNOWN_FIELDS]
        return {_clean_key(k): CODE_REMOVED if _is_code(k) else _clean(v, depth + 1) for k, v in entries[:_MAX_ENTRIES]} | more
    if isinstance(value, list | tuple):
        return [_clean(v, depth + 1) for v in value[:_MAX_ENTRIES]] + ([TOO_MANY] if len(value) > _MAX_ENTRIES else [])
    return _clean_scalar(value)


def _is_code(key: object) -> bool:
    return _CODE_FIELD.fullmatch(re.sub(r"[^a-z0-9]", "", str(key).lower())) is not None


def _clean_key(key: object) -> str:
    cleaned = _clean_scalar(key if isinstance(key, str) else str(key))
    return str(cleaned)[:100]


def _clean_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return CARD_REMOVED if looks_like_card_number(f"{value:.0f}") else value
    if isinstance(value, int) and abs(value) >= 10**30:
        return TOO_LONG
    if isinstance(value, int | Decimal | str):
        text = str(value)
        if len(text) > _MAX_TEXT:
            return TOO_LONG
        if looks_like_card_number(text):
            return CARD_REMOVED
        if _CONTROL.search(text):
            return CONTROL
        return value if isinstance(value, int | str) else text
    return NOT_JSON


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "a list", "str": "text", "bool": "true or false", "NoneType": "nothing"}
    kind = type(value).__name__
    return names.get(kind, "a number" if isinstance(value, int | float | Decimal) else kind)
