"""What of a step's JSON may stay once its customer's data is erased: numbers, and texts under keys that name an id, a code or a time.

A list of what may stay, not of what must go: what a step of tomorrow writes is not kept because nobody thought of it.
"""

from __future__ import annotations

import re
from typing import Any

from shop.orders.order import read_stored

ERASED = "erased"
"""What stands in the place of a text that has to be there."""
_STAYS = re.compile(
    r"(.*_)?(id|status|amount|at|timestamp|currency|code|fee|kind|number|model|method|carrier|service|step|compensation|total|value|"
    r"by_hand|off|url|key|generation_model|booked_at)|amount_.*|label|inventory|written_by"
)
_GOES = re.compile(r".*(customer|user|mail|name|phone|address).*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/+~-]{0,199}")
_DEEPEST = 8


def scrubbed(value: Any, depth: int = 0) -> Any:
    """The value without any text that may be a customer's. Numbers, and what is true, false or null, stay."""
    if isinstance(value, dict) and depth < _DEEPEST:
        return {key: scrubbed(each, depth + 1) for key, each in value.items() if not isinstance(each, str) or _stays(key, each)}
    if isinstance(value, list) and depth < _DEEPEST:
        return [scrubbed(each, depth + 1) for each in value if not isinstance(each, str)]
    return None if isinstance(value, dict | list) else value


def scrubbed_content(content: dict[str, Any], order_id: str, *, paid: bool) -> dict[str, Any]:
    """Still an `Order`, with nobody behind it. `paid`: it was valid once, and keeps its lines and amounts; of others only the id is kept,
    for what stands in them may be anything."""
    if not paid:
        return {"id": order_id, "customer_id": ERASED, "items": [], "total_amount": "0.00"}
    order = read_stored(content)
    kept = order.model_dump(mode="json", include={"currency", "total_amount", "tax_amount", "shipping_amount", "discount_amount"})
    items = [{"product_id": item.product_id, "quantity": item.quantity, "price": str(item.price)} for item in order.items]
    return {**kept, "id": order_id, "customer_id": ERASED, "items": items}


def _stays(key: str, value: str) -> bool:
    return _STAYS.fullmatch(key) is not None and not _GOES.fullmatch(key) and _PLAIN.fullmatch(value) is not None
