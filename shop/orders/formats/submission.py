"""Stores the orders of an export of another shop system."""

from __future__ import annotations

from collections.abc import Iterable

from shop.orders import intake
from shop.orders.errors import OrderRejected, UnusableOrder
from shop.orders.formats.known import map_order
from shop.orders.formats.mapping import Mapped
from shop.orders.outcomes import Receipt


def submit(name: str, payloads: Iterable[object]) -> list[Receipt]:
    """Maps the orders and stores them durably; returns one receipt for each, in their sequence.

    What is not paid yet or was cancelled there is not stored. A rejected order is, and ends as rejected.
    """
    read = [_read(name, payload) for payload in payloads]
    stored = iter(intake.submit(each.to_store() for each in read if isinstance(each, Mapped)))
    return [each if isinstance(each, Receipt) else _with(next(stored), each) for each in read]


def _read(name: str, payload: object) -> Mapped | Receipt:
    try:
        mapped = map_order(name, payload)
    except UnusableOrder as error:
        return Receipt(order_id=None, status="refused", reasons=error.reasons())
    if mapped.cancelled is None and mapped.waiting is None:
        return mapped
    try:
        mapped.checked()
    except OrderRejected as error:
        return Receipt(order_id=mapped.order_id, status="refused", reasons=error.reasons())
    return mapped


def _with(receipt: Receipt, mapped: Mapped) -> Receipt:
    reasons = receipt.reasons or [str(problem) for problem in mapped.reasons]
    return receipt.model_copy(update={"reasons": reasons, "ignored": [*mapped.ignored, *receipt.ignored]})
