"""Retries failed compensations, with growing pauses, until they succeed or a person resolves the order."""

from __future__ import annotations

from flows import attention_artifact
from flows.undelivered import show_undelivered
from shop.review import attention
from tasks.reopen_orders import reopen_due_orders


async def retry_compensations() -> dict[str, int]:
    """Reopens the orders under manual review whose pause is over (`DESK_RETRY_SECONDS`, doubling up to
    `DESK_RETRY_MAX_SECONDS`), and shows the review queue and the undelivered messages in the UI. Skips orders
    on hold.

    Whoever claims a reopened order runs the compensations that are still due.
    """
    reopened = await reopen_due_orders() if await attention.is_retry_due() else []
    await attention_artifact.show_review_queue()
    await show_undelivered()
    return {"retried": len(reopened)}
