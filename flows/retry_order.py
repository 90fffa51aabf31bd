"""Tries an order again for a person, after it ended uncompleted."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from flows.order_run import finish_reopened
from flows.runs import OrderId, Words, about_order, started_by, state_of
from shop.review.retry import retry


@flow(name="retry-order", flow_run_name=about_order("retry"), persist_result=False)
async def retry_order(order_id: OrderId, reason: Words, requested_by: Words) -> State[Any]:
    """Tries an order again that was rejected, out of stock or compensated, and takes it to its outcome.

    Its earlier tries stay on its page. Repeating it while the new try is under way changes nothing, but waits
    for its outcome. Raises `OrderUnknown`, `NotRetryable` and `RetryInvalid`.

    The form has no field for another card: Prefect stores and shows the parameters of a run. With another
    card, use order-saga retry, or POST /orders/{id}/retry.

    Args:
        order_id: The order's id.
        reason: The reason, such as: the product is in the catalogue now. Stored with the order. No card data.
        requested_by: Who requests it. Stored as typed, beside Prefect's record of who started this run.
    """
    order_id, log = order_id.strip(), get_run_logger()
    receipt = await retry(order_id, requested_by=requested_by, reason=reason, started_by=await started_by())
    if receipt.status == "under_way":
        log.info("try %s of order %s is under way already", receipt.try_number, order_id)
    else:
        log.info("try %s of order %s begins", receipt.try_number, order_id)
    return state_of(await finish_reopened(order_id))
