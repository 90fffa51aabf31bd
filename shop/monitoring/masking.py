"""Masks what log lines must not show: secrets from the settings, card numbers, mail addresses, and fields
that identify a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shop.runtime.setting_groups import settings_in, value_of
from shop.settings import Settings
from shop.text import card_numbers

MASKED = "[masked]"
_SHORTEST_SECRET = 6
_SHORTEST_TOKEN = 10
"""Minimum length of masked parts of a URL other than its password. Shorter parts are often ordinary words."""
_LONGEST, _MARGIN = 50_000, 1_000
"""Limits a text in characters, and so the time for masking; and the additional characters that are masked,
so that no secret is cut in two."""
_BITS = 63
"""Limits integers, in bits, to what can be written as JSON."""
_PERSONAL = frozenset(
    "name first_name last_name full_name customer_name recipient company "
    "street street1 street2 address address2 line1 line2 city zip postal_code postcode "
    "phone email mail customer_email "
    "shipping_info billing_info shipping_address billing_address payment_info "
    "card card_number cvv cvc card_last4 expiry "
    "password passwd secret token api_key apikey authorization cookie".split()
)
"""Fields whose value is never shown, in any spelling of case and hyphens."""
_MAIL = re.compile(r"(?<![A-Za-z0-9._%+'-])[A-Za-z0-9._%+'-]++@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_BEFORE_INPUT, _AFTER_INPUT = "input_value=", ", input_type="
"""pydantic repeats its input between these. The last one in a line counts: the input may contain them."""
_ROW = re.compile(r"[ |]*(?:DETAIL|CONTEXT):")
_AFTER_ROW = re.compile(
    r"[ |+-]*(?:DETAIL|CONTEXT|HINT|QUERY|LOCATION):"
    r"|[ |]*(?:\[SQL: |\(Background on |File \"|Traceback |The above |During )"
)
"""Where PostgreSQL repeats its input, and what follows it: a value may span several lines."""
_KEYS = re.compile(
    r"\b(?:[srp]k_(?:live|test)_\w{4,}|whsec_[\w+/=-]{4,}|EZ[AT]K[\w-]{8,}|Bearer\s+[\w.~+/=-]{8,})"
)


def mask(text: str, settings: Settings) -> str:
    """Masks the settings' secrets, card numbers and mail addresses in a text, and limits its length."""
    return _bounded(text, partial(_masked_text, settings=settings))


def mask_exception(text: str, settings: Settings) -> str:
    """Masks an exception with its traceback, and removes input that it repeats."""
    return _bounded(text, lambda part: _masked_text(_without_repeated(part), settings))


def _bounded(text: str, change: Callable[[str], str]) -> str:
    """Applies the change to the part of a text that is kept."""
    if len(text) <= _LONGEST + _MARGIN:
        return change(text)
    return f"{change(text[: _LONGEST + _MARGIN])[:-_MARGIN]}... ({len(text)} characters)"


def _masked_text(text: str, settings: Settings) -> str:
    if (secrets := _secrets(settings)) is not None:
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
    """Masks the fields of a line, at any depth. Replaces values that identify a person or are secret."""
    match value:
        case str():
            return mask(value, settings)
        case int() if value.bit_length() > _BITS:
            return f"an integer of {value.bit_length()} bits"
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {
                str(key): MASKED
                if str(key).lower().replace("-", "_") in _PERSONAL
                else masked(each, settings)
                for key, each in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [masked(each, settings) for each in value]
        case _:
            return mask(str(value), settings)


_known: dict[int, tuple[Settings, re.Pattern[str] | None]] = {}


def _secrets(settings: Settings) -> re.Pattern[str] | None:
    """Returns the pattern of the secrets in the settings, made once per settings object. It matches the
    longest first: one secret may be part of another."""
    if (known := _known.get(id(settings))) is not None and known[0] is settings:
        return known[1]
    found = _passwords(settings.database_url)
    for setting in settings_in(type(settings)).values():
        if isinstance(value := value_of(settings, setting), SecretStr):
            found |= _parts(value.get_secret_value())
    values = sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, values))) if values else None
    _known.clear()
    _known[id(settings)] = (settings, pattern)
    return pattern


def _parts(secret: str) -> set[str]:
    """Returns the single secrets of a list; and of URLs, the password and parts as long as a token."""
    found = {secret}
    for each in re.split(r"[\s,]+", secret):
        found |= {each, *_passwords(each), *parts_of_url(each, _SHORTEST_TOKEN)}
    return found


def parts_of_url(url: str, shortest: int = 4) -> set[str]:
    """Returns the parts of a URL that may be secret: user and password, a host that is no domain name, the
    path and its segments, and the values of the query, as written and decoded."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return set()
    rest, _, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    login, _, host = host.rpartition("@")
    found = {scheme + separator + rest, login, *login.split(":"), slash + path, *path.split("/")}
    found |= {host} if "." not in host and ":" not in host else set()
    found |= {each.partition("=")[2] for each in query.split("&")}
    return {part for each in found for part in (each, unquote(each)) if len(part) >= shortest}


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password if "://" in url else None
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
