"""Retries failed compensations, with growing pauses, until they succeed or a person resolves the order."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows import attention_artifact
from flows.closing import artifacts_shown
from flows.reopened import run_reopened
from flows.run_names import timed
from flows.undelivered import show_undelivered
from saga.database import transaction
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.review import attention
from tasks.deliver_outbox import deliver_outbox

_AT_ONCE = 100
"""Limits the orders per run; the next run takes the rest."""


@flow(name="retry-compensations", flow_run_name=timed("retries"), persist_result=False)
async def retry_compensations() -> dict[str, int]:
    """Retries the compensations of orders under manual review whose pause is over (`DESK_RETRY_SECONDS`,
    doubling up to `DESK_RETRY_MAX_SECONDS`), and shows the review queue and the undelivered messages in
    the UI. Skips orders on hold."""
    async with transaction(attention.REOPENING) as tx:
        due = await attention.reopen_due(tx, most=_AT_ONCE)
    if due:  # they are open now: if this worker dies, recovery continues them
        async with artifacts_shown():
            await run_reopened(due)
            if await outbox.is_due(due):
                await deliver_outbox(ALL_OF_AN_ORDER * len(due), due)
    await attention_artifact.show_review_queue()
    await show_undelivered()
    left = (await attention.read_queue(0)).orders
    get_run_logger().info("%d orders retried, %d under manual review", len(due), left)
    return {"retried": len(due), "need_attention": left}
