"""Reads amounts as they are written in different countries."""

from __future__ import annotations

import re
from decimal import Decimal

from shop.money import decimals

NUMBER = re.compile(
    r"(?<![\w.,'])(?:\d{1,3}(?:,\d{2})+,\d{3}|\d{1,3}(?:[ ,.']\d{3})+(?!\d)|\d+)(?:[.,]\d+)*(?:[.,]-(?!\w))?"
    r"|\d+(?:[.,']\d+)*"
)
"""1,059.97 and 1.059,97 and 1 059,97 and 1'059.97 and 10,59,997.00 and 59,-"""

_WHOLE = re.compile(r"\d+|\d{1,3}(?:,\d{3})+|\d{1,3}(?:\.\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+|\d{1,3}(?:,\d{2})+,\d{3}")


def value_of(number: str, currency: str) -> Decimal | None:
    """What it says; None if nobody writes an amount like that. `1,059` is a thousand, but of a currency of three decimals about one."""
    number = re.sub(r"[.,]-$", "", number)
    places = decimals(currency)
    whole, mark, part = _split(number)
    if mark and len(part) == 3 and (places != 3 or mark in "' "):
        whole, mark, part = number, "", ""
    if not _WHOLE.fullmatch(whole) or (mark and mark in whole) or (mark and len(part) > max(places, 2)):
        return None
    value = Decimal(re.sub(r"\D", "", whole) + (f".{part}" if part else ""))
    return value if value or not whole.strip("0") else None


def _split(number: str) -> tuple[str, str, str]:
    """Before the last separator, the separator, and after it."""
    match = re.fullmatch(r"(.*)([.,])(\d+)", number)
    return (match[1], match[2], match[3]) if match else (number, "", "")
