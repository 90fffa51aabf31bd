"""Removes customer data from JSON: keeps numbers, and texts under keys that name an id, a code or a time.

It is an allow list, so that data of steps that are added later is not kept by mistake.
"""

from __future__ import annotations

import re
from typing import Any

from shop.orders.order import read_stored
from shop.orders.tries import TRY

ERASED = "erased"
"""Replaces a required text."""
_KEPT_KEYS = re.compile(
    r"(.*_)?(id|status|amount|at|timestamp|currency|code|fee|kind|number|model|method|carrier|service|step|compensation|total|value|"
    r"by_hand|off|url|key|generation_model|booked_at)|amount_.*|label|inventory|written_by"
)
_AMOUNTS = {"amount": True, "discount_amount": True, "tax_amount": True}
_KEPT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("currency", "total_amount", "tax_amount", "shipping_amount", "discount_amount"), True),
    **dict.fromkeys(("tip_amount", "prices_include_tax"), True),
    "items": {
        "__all__": dict.fromkeys(
            "product_id quantity price line_total discount_amount tax_amount digital".split(), True
        )
    },
    "shipping_lines": {"__all__": _AMOUNTS},
    "fees": {"__all__": _AMOUNTS},
    "part_payments": {"__all__": {"method": True, "amount": True}},
}
"""The fields of `Order` that stay: what was bought, and the amounts that its total is made of."""
_CUSTOMER_KEYS = re.compile(r".*(customer|user|mail|name|phone|address).*")
_KEPT_VALUES = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/+~-]{0,199}")
_MAX_DEPTH = 8


def scrubbed(value: Any, depth: int = 0) -> Any:
    """Returns the value without texts that may be customer data. Keeps numbers, booleans and null."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return {
            key: scrubbed(each, depth + 1)
            for key, each in value.items()
            if not isinstance(each, str) or _is_kept(key, each)
        }
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return [scrubbed(each, depth + 1) for each in value if not isinstance(each, str)]
    return None if isinstance(value, dict | list) else value


def scrubbed_content(content: dict[str, Any], order_id: str, *, paid: bool) -> dict[str, Any]:
    """Returns the content of an anonymous `Order`. `paid`: the order was valid, and keeps its items and
    amounts. Others keep only the id, as their content may be anything."""
    # The earlier tries, for the comparison with the gateway.
    tries = {TRY: content[TRY]} if TRY in content else {}
    if not paid:
        return {"id": order_id, "customer_id": ERASED, "items": [], "total_amount": "0.00", **tries}
    kept = read_stored(content).model_dump(mode="json", include=_KEPT_FIELDS, exclude_defaults=True)
    return {**kept, "id": order_id, "customer_id": ERASED, **tries}


def _is_kept(key: str, value: str) -> bool:
    return (
        _KEPT_KEYS.fullmatch(key) is not None
        and not _CUSTOMER_KEYS.fullmatch(key)
        and _KEPT_VALUES.fullmatch(value) is not None
    )
