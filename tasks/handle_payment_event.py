"""Looking up what one of the gateway's events hints at, and doing what that asks for."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from shop.payment_events.event import PaymentEvent
from shop.payment_events.handling import Handled, handle
from shop.payments.gateways import gateway


class Hint:
    """An event and what came of it; an object that Prefect does not look into."""

    def __init__(self, event: PaymentEvent) -> None:
        self.event = event
        self.handled: Handled | None = None


def _run_name() -> str:
    return str(task_run.parameters["hint"].event.type)[:100]


@task(name="handle_payment_event", task_run_name=_run_name, cache_policy=NO_CACHE, persist_result=False)
async def handle_payment_event(hint: Hint) -> dict[str, Any]:
    """No retries: what the gateway cannot say now is asked again later, by another run."""
    hint.handled = handled = await handle(hint.event, gateway())
    return {"event": hint.event.id, "order": handled.order_id, "done": handled.done}
