"""Orders that have to wait for something outside, such as a gateway that is down, or a customer: they are put off, and hold up nobody."""

from __future__ import annotations

from collections.abc import Mapping

from prefect.logging import get_logger

from shop.ending import put_off
from shop.errors import OrderError, PaymentNeedsCustomer
from shop.under_way import OrderUnderWay

log = get_logger("orders")


def has_to_wait(failure: BaseException) -> bool:
    """Whether nothing is decided about the order: it goes on by itself, later."""
    return isinstance(failure, OrderError) and failure.retry_after is not None


async def let_wait(waiting: Mapping[OrderUnderWay, OrderError]) -> None:
    """Hands the orders back, for anybody to claim after the pause that their failures ask for. No longer this worker's then."""
    for why in sorted({failure.code for failure in waiting.values()}):
        orders = [order for order, failure in waiting.items() if failure.code == why]
        seconds = max(waiting[order].retry_after or 0 for order in orders)
        who = f"order {orders[0].id}" if len(orders) == 1 else f"{len(orders)} orders"
        log.warning("%s put off for %.0f s: %s", who, seconds, waiting[orders[0]])
        await put_off(orders, seconds, keep_stock=why == PaymentNeedsCustomer.code, why=why)
