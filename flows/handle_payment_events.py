"""Handles the payment gateway's events: late charges, refunds from its dashboard, disputes."""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.logging import get_run_logger

from flows import attention_artifact
from flows.closing import artifacts_shown
from flows.reconcile_payments import emit_events
from flows.reopened import run_reopened
from flows.run_names import timed
from saga.shares import share
from shop.notifications import outbox
from shop.orders.store import ORDERS
from shop.payments.events import inbox
from shop.payments.events.handling import Handled
from shop.payments.limit import PAYMENT_GATEWAY
from tasks.deliver_outbox import deliver_outbox
from tasks.handle_payment_event import Hint, handle_payment_event

_AT_ONCE = 8


@flow(name="handle-payment-events", flow_run_name=timed("payment events"), persist_result=False)
async def handle_payment_events() -> dict[str, int]:
    """Handles the stored events that are due. If this run dies, the next one handles the rest.

    For a discrepancy that needs a person it emits `order.reconciliation.discrepancy`, as a reconciliation
    does.
    """
    log, ended = get_run_logger(), list[Handled]()
    while events := await inbox.claim(most=_AT_ONCE):
        hints = [Hint(event) for event in events]
        async with share(PAYMENT_GATEWAY, ORDERS, wanted=len(hints)):
            await asyncio.gather(*(handle_payment_event(hint) for hint in hints))
        for hint in hints:
            if (handled := hint.handled) is not None:
                log.info("%s of %s: %s", hint.event.type, handled.order_id, handled.done or "later")
                emit_events([each for each in handled.found if not each.repaired])
                ended.append(handled)
    async with artifacts_shown():
        if reopened := [each.order_id for each in ended if each.reopened and each.order_id]:
            await run_reopened(reopened)  # if this worker dies, recovery continues these open orders
        if (touched := list({each.order_id for each in ended if each.order_id})) and await outbox.is_due(
            touched
        ):
            await deliver_outbox(len(touched), touched)
    if any(each.review_changed or each.reopened for each in ended):
        await attention_artifact.show_review_queue()
    done = sum(each.done is not None for each in ended)
    return {"handled": done, "later": len(ended) - done}
