"""What no log line may show: secrets of the settings, card numbers, mail addresses, and what is in fields that name a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shop import card_numbers
from shop.settings import Settings

MASKED = "[masked]"
_SHORTEST_SECRET = 6
_LONGEST, _MARGIN = 50_000, 1_000
"""Characters of one text, which bounds the time that masking takes; and those after them that are read, so
that no secret is cut in two."""
_BITS = 63
"""Of the integers that JSON can be written with."""
_PERSONAL = frozenset(
    "name first_name last_name full_name customer_name recipient company street street1 street2 address address2 line1 line2 city zip "
    "postal_code postcode phone email mail customer_email shipping_info billing_info shipping_address billing_address payment_info "
    "card card_number cvv cvc card_last4 expiry password passwd secret token api_key apikey authorization cookie".split()
)
"""Fields whose value is never shown, however they are written."""
_MAIL = re.compile(r"(?<![A-Za-z0-9._%+'-])[A-Za-z0-9._%+'-]++@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_BEFORE_INPUT, _AFTER_INPUT = "input_value=", ", input_type="
"""Between them pydantic repeats what it was given. What was given may hold them as well, so the last of a line counts."""
_ROW = re.compile(r"[ |]*(?:DETAIL|CONTEXT):")
_AFTER_ROW = re.compile(
    r"[ |+-]*(?:DETAIL|CONTEXT|HINT|QUERY|LOCATION):|[ |]*(?:\[SQL: |\(Background on |File \"|Traceback |The above |During )"
)
"""Where PostgreSQL repeats what it was given, and what comes after that: a value may go over several lines."""
_KEYS = re.compile(r"\b(?:[srp]k_(?:live|test)_\w{4,}|whsec_[\w+/=-]{4,}|EZ[AT]K[\w-]{8,}|Bearer\s+[\w.~+/=-]{8,})")


def mask(text: str, settings: Settings) -> str:
    """The text without secrets of these settings, card numbers, and mail addresses. What is too long for a
    log line is cut."""
    return _bounded(text, partial(_masked_text, settings=settings))


def mask_exception(text: str, settings: Settings) -> str:
    """An exception with its traceback, without the values that it repeats."""
    return _bounded(text, lambda part: _masked_text(_without_repeated(part), settings))


def _bounded(text: str, change: Callable[[str], str]) -> str:
    """Changes what is looked at of a text."""
    if len(text) <= _LONGEST + _MARGIN:
        return change(text)
    return f"{change(text[: _LONGEST + _MARGIN])[:-_MARGIN]}... ({len(text)} characters)"


def _masked_text(text: str, settings: Settings) -> str:
    if (secrets := _secrets(_values(settings))) is not None:
        text = secrets.sub(MASKED, text)
    if "_" in text or "EZ" in text or "Bearer" in text:
        text = _KEYS.sub(MASKED, text)
    if "@" in text:
        text = _MAIL.sub("[mail address]", text)
    return card_numbers.masked(text)


def _without_repeated(text: str) -> str:
    lines, in_row = list[str](), False
    for line in text.split("\n"):
        if begins := _ROW.match(line):
            lines.append(f"{begins.group()} {MASKED}")
            in_row = True
        elif not in_row or _AFTER_ROW.match(line):
            lines.append(_without_input(line))
            in_row = False
    return "\n".join(lines)


def _without_input(line: str) -> str:
    start = line.find(_BEFORE_INPUT)
    if start < 0:
        return line
    end = line.rfind(_AFTER_INPUT, start)
    return line[: start + len(_BEFORE_INPUT)] + MASKED + (line[end:] if end >= 0 else "")


def masked(value: Any, settings: Settings) -> Any:
    """The same for whatever a line has in its fields, as deep as it goes; a field that names a person or a secret shows nothing."""
    match value:
        case str():
            return mask(value, settings)
        case int() if value.bit_length() > _BITS:
            return f"an integer of {value.bit_length()} bits"
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {str(key): MASKED if _is_personal(key) else masked(each, settings) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [masked(each, settings) for each in value]
        case _:
            return mask(str(value), settings)


def _is_personal(key: object) -> bool:
    return str(key).lower().replace("-", "_") in _PERSONAL


_known: dict[int, tuple[Settings, frozenset[str]]] = {}


def _values(settings: Settings) -> frozenset[str]:
    """The settings' secrets, found once for each settings object."""
    if (known := _known.get(id(settings))) is not None and known[0] is settings:
        return known[1]
    found = set[str]()
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), SecretStr):
            found |= _parts(value.get_secret_value())
    found |= _passwords(settings.database_url)
    _known.clear()
    values = frozenset(each for each in found if len(each) >= _SHORTEST_SECRET)
    _known[id(settings)] = (settings, values)
    return values


def _parts(secret: str) -> set[str]:
    """Several with commas between them; and the password of an address."""
    return {secret, *(each.strip() for each in secret.split(",")), *_passwords(secret)}


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password if "://" in url else None
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


@lru_cache(maxsize=8)
def _secrets(values: frozenset[str]) -> re.Pattern[str] | None:
    """The longest first: one may be part of another."""
    return re.compile("|".join(re.escape(each) for each in sorted(values, key=len, reverse=True))) if values else None
