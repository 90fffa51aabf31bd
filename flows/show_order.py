"""Shows an order by its id, whichever lane processed it."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.order_picture import show_order as draw
from flows.runs import OrderId, about_order
from shop.orders.page.page import page_key
from shop.orders.report import read_one
from shop.review.errors import OrderUnknown


@flow(name="show-order", flow_run_name=about_order("show"), persist_result=False)
async def show_order(order_id: OrderId) -> State[str]:
    """Draws the order's history so far: its page, as an artifact of this run. Changes nothing. Raises
    `OrderUnknown`, and `RuntimeError` if the page cannot be created.

    Args:
        order_id: The exact order id.
    """
    order_id = order_id.strip()
    if (known := await read_one(order_id)) is None:
        raise OrderUnknown(order_id)
    if not await draw(order_id):
        raise RuntimeError(f"creating the page of order {order_id} failed: see the run's log")
    return Completed(
        message=f"{order_id}: {known.outcome or 'no outcome yet'}; see the artifact {page_key(order_id)}",
        data=page_key(order_id),
    )
