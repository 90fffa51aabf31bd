"""Delivers the messages that the steps have put into the outbox."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from shop.notifications import outbox
from shop.orders.names import run_name


def _run_name() -> str:
    order_ids = task_run.parameters.get("order_ids") or []
    return run_name("deliver_outbox", {"id": order_ids[0]}) if len(order_ids) == 1 else "deliver_outbox"


@task(name="deliver_outbox", task_run_name=_run_name, cache_policy=NO_CACHE, persist_result=False)
async def deliver_outbox(most: int, order_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Sends up to `most` messages that are due (of these orders). Failed ones are retried later."""
    sent, failed = await outbox.deliver(most=most, order_ids=order_ids)
    return {"sent": sent, "failed": failed}
