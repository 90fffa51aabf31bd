"""A person cancels an order: first what that would undo, then, if confirmed, the undoing."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.order_saga import ORDER_SAGA
from flows.reopened import to_its_outcome
from flows.states import state_of
from flows.who import started_by
from saga.cancelling import Asked
from shop.orders.names import run_name
from shop.payments.gateways import gateway
from shop.review.cancel import ask_to_cancel
from shop.review.preview import CancelPreview, preview_cancel

PREVIEW_KEY = "what-cancelling-undoes"

OrderId = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(min_length=1, max_length=300)]


def _run_name() -> str:
    what = "cancel" if flow_run.parameters.get("confirmed") else "preview cancelling"
    return run_name(what, {"id": flow_run.parameters.get("order_id")})


@flow(name="cancel-order", flow_run_name=_run_name, persist_result=False)
async def cancel_order(order_id: OrderId, reason: Words, requested_by: Words, confirmed: bool) -> State[Any]:
    """Shows what cancelling the order now would undo and cost (result, and artifact `what-cancelling-undoes`); if confirmed, does it.

    Before it is shipped, the order is stopped and undone. After that it is returned: money refunded, pieces on the shelf again, customer
    told. Twice cancels once. An order that a worker has in hand may ship before it hears of this; then it is returned.
    Raises `OrderUnknown` and `ResolutionIncomplete` (a word is missing).

    Args:
        order_id: The order's id.
        reason: Why; kept with the order, and shown. No card data.
        requested_by: Who asks for it. Kept as typed, beside what Prefect knows of who started this run.
        confirmed: False only shows what cancelling would undo and cost. True does it.
    """
    order_id, log = order_id.strip(), get_run_logger()
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    await _show(seen)
    if not confirmed:
        return Completed(name="Preview", message="; ".join(f"{what}: {how}" for what, how in seen.lines())[:1000], data=seen)
    match await ask_to_cancel(order_id, reason=reason, requested_by=requested_by, started_by=await started_by()):
        case Asked.ASKED:
            log.info("order %s is to be cancelled; it was: %s", order_id, seen.stage)
        case Asked.KNOWN:
            log.info("order %s is being undone already: nothing more is done", order_id)
        case Asked.ENDED:
            log.info("order %s has ended, with nothing to cancel", order_id)
    return state_of(await to_its_outcome(order_id))


async def _show(seen: CancelPreview) -> None:
    """What it would undo, in the run's own artifacts. A UI that cannot show it is no reason not to cancel."""
    try:
        await acreate_table_artifact(
            table=[{"": what, "if cancelled now": how} for what, how in seen.lines()],
            key=PREVIEW_KEY,
            description="What cancelling would undo, and what it costs, when this was made.",
        )
    except Exception as error:  # noqa: BLE001
        get_run_logger().warning("the preview could not be shown (%s)", type(error).__name__)
