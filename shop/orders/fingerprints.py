"""Fingerprints of orders: equal for the same order, so that submitting it again is recognised.

A fingerprint covers what differs from its default, so that a new optional field changes none. A field that an
earlier version of this software did not know is left out of a comparison with an order that this version
stored: the field may have been sent then, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from shop.orders.order import Order, read_stored

ADDED: Mapping[int, frozenset[str]] = {
    3: frozenset(
        "prices_include_tax shipping_lines fees tip_amount part_payments billing_info order_number "
        "ordered_at locale metadata items.line_total items.discount_amount items.tax_amount items.sku "
        "items.variant items.weight_grams items.properties items.digital payment_info.reference "
        "payment_info.provider shipping_info.company".split()
    )
}
"""The fields of `Order` and its parts that a version of the fingerprint has added. Whoever adds a field to
the order adds the next version here."""
_VERSION = max(ADDED)


def dumped(order: Order) -> str:
    """Returns the order as it is stored: JSON of what differs from its defaults, with sorted keys."""
    return orjson.dumps(
        order.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_SORT_KEYS
    ).decode()


def of(text: str) -> str:
    """Returns the fingerprint of an order's stored JSON."""
    return _made(text.encode(), _VERSION)


def is_same(text: str, fingerprint: str, stored: Mapping[str, Any] | None) -> bool:
    """Returns whether the order of this JSON is the one with another fingerprint: if this software stored it
    before it knew some of the fields. `stored`: the other order's content, as far as it is not erased."""
    version = _version(fingerprint)
    if version >= _VERSION:
        return False
    mine = json.loads(text)
    if fingerprint == _earlier(mine, version):
        return True
    return stored is not None and _comparable(stored, version) == _comparable(mine, version)


def _made(content: bytes, version: int) -> str:
    return f"{version}:{hashlib.sha256(content).hexdigest()}"


def _version(fingerprint: str) -> int:
    number, colon, _ = fingerprint.partition(":")
    return int(number) if colon and number.isdecimal() else 1


def _earlier(content: Mapping[str, Any], version: int) -> str | None:
    """Returns the fingerprint that the version made of this content; None if it is not a valid order."""
    try:
        order = read_stored(content)
    except ValidationError:
        return None
    if version == 1:  # covered defaults, too
        whole = order.model_dump_json(include=_FIELDS_OF_1)
        return hashlib.sha256(whole.encode()).hexdigest()
    known = _known_to(json.loads(dumped(order)), version)
    return _made(orjson.dumps(known, option=orjson.OPT_SORT_KEYS), version)


_FIELDS_OF_1: dict[str, Any] = {
    **dict.fromkeys("id customer_id total_amount currency customer_name customer_email notes".split(), True),
    **dict.fromkeys(("tax_amount", "shipping_amount", "discount_amount"), True),
    "items": {"__all__": {"product_id", "quantity", "price", "name"}},
    "payment_info": {"method", "card_last4", "token"},
    "shipping_info": {"name", "address", "city", "state", "zip", "country"},
}
"""The fields that fingerprints without version cover, in the sequence of the model at that time."""


def _comparable(content: Mapping[str, Any], version: int) -> bytes:
    """Returns equal bytes for the same order, stored by that version and submitted again."""
    try:
        known = _known_to(json.loads(dumped(read_stored(content))), version)
    except ValidationError:  # earlier versions kept fields of such an order that no order has
        own = {key: value for key, value in content.items() if key in Order.model_fields}
        known = _known_to(own, version)
    return orjson.dumps(known, option=orjson.OPT_SORT_KEYS)


def _known_to(content: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Returns the content without the fields that the version did not know."""
    unknown = frozenset[str]().union(*[fields for added, fields in ADDED.items() if added > version])
    return {key: _part(key, value, unknown) for key, value in content.items() if key not in unknown}


def _part(name: str, value: Any, unknown: frozenset[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: each for key, each in value.items() if f"{name}.{key}" not in unknown}
    if isinstance(value, list):
        return [_part(name, each, unknown) for each in value]
    return value
