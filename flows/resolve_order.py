"""Resolves an order under manual review, through a form in the UI."""

from __future__ import annotations

import asyncio
import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import attention_artifact
from flows.order_run import finish_reopened
from flows.runs import OptionalWords, OrderId, Words, started_by, state_of
from shop.orders.names import run_name
from shop.orders.outcomes import OrderOutcome
from shop.orders.report import read_one
from shop.review import resolution as review
from shop.review.errors import OrderBusy
from shop.review.resolution import Decision, Resolution

_BUSY_SECONDS = 120


def _run_name() -> str:
    return run_name(
        f"resolve {flow_run.parameters.get('resolution')}", {"id": flow_run.parameters.get("order_id")}
    )


@flow(name="resolve-order", flow_run_name=_run_name, persist_result=False)
async def resolve_order(  # noqa: PLR0917  (a form)
    order_id: OrderId,
    resolution: Resolution,
    resolved_by: Words,
    reference: OptionalWords = None,
    reason: OptionalWords = None,
    amount: OptionalWords = None,
) -> State[OrderOutcome]:
    """Resolves an order under manual review, or retries its compensations. Stores who, when and why (table
    `desk_entry`).

    Repeating the same decision has no effect. Raises the errors of `shop.review.errors`, which say what to
    do.

    Args:
        order_id: The order's id, as in the artifact orders-that-need-attention.
        resolution: hold: a person handles it, without automatic retries. refunded_by_hand: the money was
            refunded outside the gateway.
            written_off: what is still due will not be done. retry_now: retry at once.
        resolved_by: Who decides this. Stored as typed, beside Prefect's record of who started this run.
        reference: Required for refunded_by_hand: a proof, such as the number of a bank transfer. No card
            data.
        reason: Required for written_off: the reason. No card data.
        amount: The amount at risk that you see, such as 1059.97 USD. If another amount is at risk by now,
            nothing is settled. For refunded_by_hand and written_off.
    """
    decided = review.decision(
        order_id,
        resolution,
        resolved_by=resolved_by,
        reference=reference,
        reason=reason,
        started_by=await started_by(),
        amount=amount,
    )
    new = await _resolve(decided)
    get_run_logger().info(
        "%s of order %s: %s",
        decided.resolution,
        decided.order_id,
        "recorded" if new else "was decided before",
    )
    if decided.resolution is Resolution.HOLD:
        await attention_artifact.show_review_queue()
        known = await read_one(decided.order_id)
        return Completed(name="Held", message=f"{decided.order_id} is retried only on request", data=known)
    known = await finish_reopened(decided.order_id)
    await attention_artifact.show_review_queue()
    return state_of(known)


async def _resolve(decided: Decision) -> bool:
    """Waits for a running retry, because its result decides whether there is still something to resolve."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return await review.resolve(decided)
        except OrderBusy:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)
