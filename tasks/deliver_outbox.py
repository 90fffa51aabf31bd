"""Sending what the steps have put into the outbox."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from shop.notifications import outbox


@task(name="deliver_outbox", cache_policy=NO_CACHE, persist_result=False)
async def deliver_outbox(most: int, order_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Sends up to `most` messages that are due (of these orders); what fails is tried again later."""
    sent, failed = await outbox.deliver(most=most, order_ids=order_ids)
    return {"sent": sent, "failed": failed}
