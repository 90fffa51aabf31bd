"""Compares an order with the one that is stored under its id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Connection, text

from shop.orders.intake_content import HAS_REMOVED, Content
from shop.text.card_numbers import cut

_LOCK = text(
    "SELECT content, status, outcome, reasons, erased_at IS NOT NULL AS is_erased, "
    "failure IS NOT NULL OR cancel_requested_at IS NOT NULL AS is_given_up "
    "FROM customer_order WHERE id = :id FOR UPDATE"
)
_AMOUNTS = ("total_amount", "tax_amount", "shipping_amount", "discount_amount", "tip_amount")
_LINE = ("product_id", "quantity", "price", "line_total", "discount_amount", "tax_amount", "digital")
_CHARGE = ("amount", "discount_amount", "tax_amount", "method")
_MOST = 20
"""Limits the differences that are listed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An order that is stored, and whose row is locked."""

    content: Mapping[str, Any]
    status: str
    outcome: str | None
    reasons: Sequence[str]
    is_erased: bool
    """Whether the customer's data was erased, so that nothing can be compared."""
    is_given_up: bool
    """Whether it has failed or is cancelled, so that it is compensated."""

    @property
    def is_shipped(self) -> bool:
        return self.status == "shipped" or self.outcome == "completed"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that matters: of money, goods or the destination."""

    place: str
    here: str
    there: str
    """Never what a customer typed: `here` and `there` show amounts, numbers and the catalogue's ids."""

    def __str__(self) -> str:
        return f"{self.place}: {self.here} here, {self.there} in the shop"


def lock_stored(connection: Connection, order_id: str) -> Stored | None:
    """Locks and reads the order; None if there is none."""
    row = connection.execute(_LOCK, {"id": order_id}).one_or_none()
    return None if row is None else Stored(**row._mapping)


def differences(stored: Mapping[str, Any], content: Content) -> list[Difference]:
    """Returns what is different in the order; leaves out names, notes and metadata."""
    here, there = stored, json.loads(content.text)
    found = [*_compare("", here, there, ("currency", *_AMOUNTS, "prices_include_tax"))]
    for name, fields in (
        ("items", _LINE),
        ("shipping_lines", _CHARGE),
        ("fees", _CHARGE),
        ("part_payments", _CHARGE),
    ):
        found += _compare_lists(name, here.get(name), there.get(name), fields)
    mine, theirs = _part(here, "payment_info"), _part(there, "payment_info")
    if mine and theirs:  # a rejected order has none, if its goods have left
        found += _compare("payment_info", mine, theirs, ("method", "provider"))
    if not same_address(here.get("shipping_info"), there.get("shipping_info")):
        found.append(Difference("shipping_info", "an address", "another one"))
    if (here.get("customer_email") or None) != (there.get("customer_email") or None):
        found.append(Difference("customer_email", "an address", "another one"))
    return [*found, *_compare_reasons(here.get(HAS_REMOVED) or {}, there.get(HAS_REMOVED) or {})][:_MOST]


def _compare_reasons(here: Mapping[str, str], there: Mapping[str, str]) -> list[Difference]:
    """Compares why the order is rejected."""
    found = []
    for place in there:
        if there[place] != here.get(place):
            before = "rejected for another reason" if place in here else "accepted"
            found.append(Difference(place, before, there[place].partition(": ")[2].removesuffix("]")))
    gone = [Difference(place, "rejected", "acceptable now") for place in here if place not in there]
    return found + gone


def same_address(one: Any, other: Any) -> bool:
    """Returns whether both are the same address, or none."""
    return _part({"": one}, "") == _part({"": other}, "")


def _part(order: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = order.get(name)
    return {k: v for k, v in part.items() if v not in (None, "")} if isinstance(part, Mapping) else {}


def _compare_lists(name: str, here: Any, there: Any, fields: tuple[str, ...]) -> list[Difference]:
    mine = [each if isinstance(each, Mapping) else {} for each in here or []]
    theirs = [each if isinstance(each, Mapping) else {} for each in there or []]
    if len(mine) != len(theirs):
        return [Difference(name, f"{len(mine)} entries", f"{len(theirs)}")]
    return [
        found
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True))
        for found in _compare(f"{name}[{i}]", one, other, fields)
    ]


def _compare(
    place: str, here: Mapping[str, Any], there: Mapping[str, Any], fields: tuple[str, ...]
) -> list[Difference]:
    return [
        Difference(f"{place}.{name}" if place else name, _shown(here.get(name)), _shown(there.get(name)))
        for name in fields
        if _plain(here.get(name)) != _plain(there.get(name))
    ]


def _plain(value: Any) -> Any:
    """Returns equal values for 9.9 and "9.90", and for a missing value and 0."""
    try:
        return Decimal(str(value)) or None if not isinstance(value, bool) else value or None
    except InvalidOperation:
        return value or None


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "") else cut(str(value), 60)
