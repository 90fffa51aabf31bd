"""Handles one payment event: looks up its subject at the gateway and acts on the result."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from shop.payments.events.handling import Handled, handle
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateways import gateway


class Hint:
    """An event and its result; a plain object, so that Prefect does not traverse it."""

    def __init__(self, event: PaymentEvent) -> None:
        self.event = event
        self.handled: Handled | None = None


def _run_name() -> str:
    return str(task_run.parameters["hint"].event.type)[:100]


@task(name="handle_payment_event", task_run_name=_run_name, cache_policy=NO_CACHE, persist_result=False)
async def handle_payment_event(hint: Hint) -> dict[str, Any]:
    """Handles the event. Without retries: if the gateway cannot answer now, a later run handles it."""
    hint.handled = handled = await handle(hint.event, gateway())
    return {"event": hint.event.id, "order": handled.order_id, "done": handled.done}
