"""The known formats of orders, by name; maps an order of one, and stores those of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from shop.orders import intake
from shop.orders.errors import OrderRejected, Problem, UnusableOrder
from shop.orders.formats import medusa, shopify, woocommerce
from shop.orders.formats.mapping import Mapped
from shop.orders.formats.reading import is_whole
from shop.orders.formats.settings import Options
from shop.orders.outcomes import Receipt
from shop.settings import settings

Mapper = Callable[[Mapping[str, Any], Options], Mapped]
FORMATS: dict[str, Mapper] = {
    "shopify": shopify.map_order,
    "woocommerce": woocommerce.map_order,
    "medusa": medusa.map_order,
}


def map_order(name: str, payload: object) -> Mapped:
    """Maps one order of this format, with its settings. Raises `UnusableOrder` for what has no id."""
    if not isinstance(payload, Mapping):
        raise UnusableOrder([Problem("order", "no object", "an object")])
    if isinstance(inner := payload.get("order"), Mapping) and len(payload) == 1:
        payload = inner
    if not _is_id(payload.get("id")):
        raise UnusableOrder([Problem("id", "nothing", "the order's id in the other system")])
    return FORMATS[name](payload, options_of(name))


def _is_id(given: object) -> bool:
    if isinstance(given, str):
        return given.strip() != ""
    if isinstance(given, Decimal):
        return given.is_finite() and given > 0
    return is_whole(given) and given != 0


def options_of(name: str) -> Options:
    """Returns the settings of this format; defaults for one that has none."""
    group = getattr(settings(), name, None)
    return group.options if group is not None else Options(prefix=f"{name}-")


def map_all(name: str, payloads: Iterable[object]) -> list[Mapped]:
    """Maps all orders of an export; see `map_order`."""
    return [map_order(name, payload) for payload in payloads]


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
