"""Reports the orders that a run took over, and shows each one's page also in the run that had it before."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from flows.order_picture import show_order
from flows.order_saga import ORDER_SAGA
from saga.prefect import takeover
from shop.orders.order import OrderInstance


def report_takeovers(orders: Sequence[OrderInstance]) -> None:
    """Reports those of the orders that another worker had begun."""
    takeover.report_takeovers(ORDER_SAGA, orders, noun="order", finished=_show)


async def _show(order_id: str, run: UUID) -> None:
    await show_order(order_id, of_run=run)
