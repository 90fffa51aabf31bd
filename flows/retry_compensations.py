"""What could not be undone is tried again, with growing pauses, until it is done or a person settles it."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows import attention_artifact
from flows.closing import artifacts_shown
from flows.reopened import take_up
from flows.run_names import timed
from flows.undelivered import show_undelivered
from saga.database import transaction
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.review import attention
from tasks.deliver_outbox import deliver_outbox

_AT_ONCE = 100
"""A run takes no more than this; the next one the rest."""


@flow(name="retry-compensations", flow_run_name=timed("retries"), persist_result=False)
async def retry_compensations() -> dict[str, int]:
    """Tries again to undo the orders on the desk whose pause is over (`DESK_RETRY_SECONDS`, doubling up to `DESK_RETRY_MAX_SECONDS`), and
    shows the desk in the UI, and the messages that were not delivered. An order that is held is left alone."""
    async with transaction(attention.REOPENING) as tx:
        due = await attention.reopen_due(tx, most=_AT_ONCE)
    if due:  # from here on they are open orders: should this worker die, recovery continues them
        async with artifacts_shown():
            await take_up(due)
            if await outbox.is_due(due):
                await deliver_outbox(ALL_OF_AN_ORDER * len(due), due)
    await attention_artifact.show_review_queue()
    await show_undelivered()
    left = (await attention.read_queue(0)).orders
    get_run_logger().info("%d orders tried again, %d need attention", len(due), left)
    return {"retried": len(due), "need_attention": left}
