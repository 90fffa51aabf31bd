"""Cancels an order for a person: previews the effect or, if confirmed, cancels."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.order_run import finish_reopened
from flows.order_saga import ORDER_SAGA
from flows.runs import OrderId, Words, started_by, state_of
from saga.cancelling import Asked
from shop.orders.names import run_name
from shop.payments.gateways import gateway
from shop.review.cancel import ask_to_cancel
from shop.review.preview import CancelPreview, preview_cancel

PREVIEW_KEY = "what-cancelling-undoes"


def _run_name() -> str:
    what = "cancel" if flow_run.parameters.get("confirmed") else "preview cancelling"
    return run_name(what, {"id": flow_run.parameters.get("order_id")})


@flow(name="cancel-order", flow_run_name=_run_name, persist_result=False)
async def cancel_order(order_id: OrderId, reason: Words, requested_by: Words, confirmed: bool) -> State[Any]:
    """Shows what cancelling now would compensate and cost (as result and artifact `what-cancelling-undoes`);
    if confirmed, cancels it.

    Before it is shipped, the order is stopped and compensated. After that it is returned: the money is
    refunded, the pieces are back on the shelf, and the customer is notified. Repeating it has no further
    effect. An order that a worker is processing may ship before the request takes effect; then it is
    returned. Raises `OrderUnknown` and `ResolutionIncomplete` (a text is missing).

    Args:
        order_id: The order's id.
        reason: The reason; stored with the order, and shown. No card data.
        requested_by: Who requests it. Stored as typed, beside Prefect's record of who started this run.
        confirmed: False only previews what cancelling would compensate and cost. True cancels the order.
    """
    order_id, log = order_id.strip(), get_run_logger()
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    await _show(seen)
    if not confirmed:
        return Completed(
            name="Preview",
            message="; ".join(f"{what}: {how}" for what, how in seen.lines())[:1000],
            data=seen,
        )
    match await ask_to_cancel(
        order_id, reason=reason, requested_by=requested_by, started_by=await started_by()
    ):
        case Asked.ASKED:
            log.info("order %s is to be cancelled; it was: %s", order_id, seen.stage)
        case Asked.KNOWN:
            log.info("order %s is being compensated already: nothing to do", order_id)
        case Asked.ENDED:
            log.info("order %s has ended, with nothing to cancel", order_id)
    return state_of(await finish_reopened(order_id))


async def _show(seen: CancelPreview) -> None:
    """Shows the preview in the run's own artifacts. An error of the UI does not prevent the cancellation."""
    try:
        await acreate_table_artifact(
            table=[{"": what, "if cancelled now": how} for what, how in seen.lines()],
            key=PREVIEW_KEY,
            description="What cancelling the order would compensate and cost at this moment.",
        )
    except Exception as error:  # noqa: BLE001
        get_run_logger().warning("showing the preview failed (%s)", type(error).__name__)
