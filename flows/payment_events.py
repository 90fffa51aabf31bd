"""Handles the payment gateway's events: late charges, refunds from its dashboard, disputes."""

from __future__ import annotations

import asyncio

from prefect.logging import get_run_logger

from flows import attention_artifact
from flows.reconcile_payments import emit_events
from saga.shares import share
from shop.orders.store import ORDERS
from shop.payments.events import inbox
from shop.payments.events.handling import Handled
from shop.payments.gateways import PAYMENT_GATEWAY
from tasks.handle_payment_event import Hint, handle_payment_event

_AT_ONCE = 8


async def handle_payment_events() -> dict[str, int]:
    """Handles the stored events that are due. If this process dies, another one handles the rest.

    For a discrepancy that needs a person it emits `order.reconciliation.discrepancy`, as a reconciliation
    does. Whoever claims a reopened order continues it.
    """
    ended: list[Handled] = []
    while events := await inbox.claim(most=_AT_ONCE):
        hints = [Hint(event) for event in events]
        async with share(PAYMENT_GATEWAY, ORDERS, wanted=len(hints)):
            await asyncio.gather(*(handle_payment_event(hint) for hint in hints))
        for hint in hints:
            if (handled := hint.handled) is not None:
                get_run_logger().info(
                    "%s of %s: %s", hint.event.type, handled.order_id, handled.done or "later"
                )
                emit_events([each for each in handled.found if not each.repaired])
                ended.append(handled)
    if any(each.review_changed or each.reopened for each in ended):
        await attention_artifact.show_review_queue()
    done = sum(each.done is not None for each in ended)
    return {"events_handled": done, "events_postponed": len(ended) - done}
