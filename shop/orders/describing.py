"""Describes values in problems: amounts, piece counts and product ids as they are, of others only the kind,
so that no problem repeats what a customer typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

_PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,59}")


def shown(number: object) -> str:
    """Shows an amount or a number of pieces."""
    text = str(number)
    return text if len(text) <= 60 else text[:57] + "..."


def product(product_id: str) -> str:
    """Shows a product id if it looks like one."""
    return repr(product_id) if _PRODUCT_ID.fullmatch(product_id) else kind(product_id)


def kind(value: object) -> str:
    """Describes the kind of value, without the value."""
    match value:
        case None | "":
            return "nothing"
        case bool():
            return str(value)
        case str():
            return f"text of {len(value)} character{'s' if len(value) > 1 else ''}"
        case int() | float() | Decimal():
            return "a number"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case _:
            return type(value).__name__
