"""What a worker does that may be killed on its way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text

from flows.accept_discrepancies import accept_discrepancies
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.reconcile_payments import reconcile_payments
from flows.resolve_order import resolve_order
from saga import failpoints
from saga.database import transaction
from shop.orders import intake
from shop.payments.events import inbox
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateway import Payment, PaymentStatus
from shop.payments.gateways import gateway
from shop.payments.recording import IncomingPayment, record
from shop.review.cancel import ask_to_cancel, ask_to_cancel_sync
from shop.review.errors import NotRetryable
from shop.review.resolution import Resolution
from shop.review.retry import NewMeans, retry
from tests.crash.scenarios import PRICE, stranger


class _Watcher:
    """Dies at one point, fails at another once, or writes down those that it passes. `cancel`: an order that
    somebody cancels while its label is being bought, or its stock committed."""

    def __init__(
        self, kill_at: str | None, fail_at: str | None, passed: str | None, cancel: str | None = None
    ) -> None:
        self._kill_at, self._fail_at, self._passed, self._cancel = kill_at, fail_at, passed, cancel

    def __call__(self, point: str) -> None:
        if point in {"after buying a label", "after committing at the inventory service"} and self._cancel:
            ask_to_cancel_sync(self._cancel, reason="changed their mind", requested_by="customer")
        if self._passed:
            with Path(self._passed).open("a") as file:
                file.write(point + "\n")
        if point == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if point == self._fail_at:
            self._fail_at = None  # once
            raise RuntimeError(f"made to fail {point}")


async def _return(order_id: str) -> None:
    await ask_to_cancel(order_id, reason="does not fit", requested_by="customer")
    await process_pending_orders(consumer_seconds=0, return_state=True)


async def _retry(order_id: str) -> None:
    async with transaction() as tx:
        await tx.execute(
            text("UPDATE attention SET next_retry_at = now() WHERE order_id = :id"), {"id": order_id}
        )
    await housekeeping(return_state=True)


async def _settle(order_id: str) -> None:
    await resolve_order(
        order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="transfer 4711", return_state=True
    )


async def _reconcile(_order_id: str) -> None:
    await reconcile_payments(return_state=True)


async def _accept(order_id: str) -> None:
    await accept_discrepancies(stranger(order_id), "ann", "a test of the payment page", return_state=True)


async def _event(order_id: str) -> None:
    """The gateway reports each of the order's payments; twice, as it does without an answer."""
    for payment in 2 * await gateway().find(order_id):
        kind = "payment_intent.succeeded" if payment.charged else "payment_intent.created"
        await inbox.store(PaymentEvent(f"evt_{payment.id}", kind, payment.created_at, payment.id, order_id))
    await housekeeping(return_state=True)


async def _receive(order_id: str) -> None:
    """The order's transfer arrives. A recording without an answer is repeated."""
    await record(
        IncomingPayment(
            order_id=order_id, amount=PRICE, reference=f"transfer for {order_id}", recorded_by="bank"
        )
    )
    await process_pending_orders(consumer_seconds=0, return_state=True)


async def _second_try(order_id: str) -> None:
    """Its customer gives another card; a request without an answer is repeated."""
    with suppress(NotRetryable):  # it is paid
        await retry(order_id, NewMeans(card_last4="1234"))
    await process_pending_orders(consumer_seconds=0, return_state=True)


AFTERWARDS = {
    "return": _return,
    "retry": _retry,
    "settle": _settle,
    "reconcile": _reconcile,
    "accept": _accept,
    "event": _event,
    "second": _second_try,
    "receive": _receive,
}


async def _pay_again(order: dict[str, Any]) -> None:
    """Unexpected payments: one is created and left;
    and where the order was declined, another one is charged."""
    found = await gateway().find(order["id"])
    if len(found) > 1:
        return  # an earlier worker did it
    await _create(order, "left")
    if found[0].status is PaymentStatus.DECLINED:
        await gateway().confirm((await _create(order, "late")).id, key=f"confirm-late-{order['id']}")


async def _pay_for_nothing(order: dict[str, Any]) -> None:
    """For an order that there is not; and reconciliation finds it."""
    unowned = {**order, "id": stranger(order["id"])}
    if not await gateway().find(unowned["id"]):
        await gateway().confirm((await _create(unowned, "paid")).id, key=f"confirm-{unowned['id']}")
    await reconcile_payments(return_state=True)


async def _create(order: dict[str, Any], key: str) -> Payment:
    amount, key = Decimal(order["total_amount"]), f"{key}-{order['id']}"
    method = {"method": "credit_card", "card_last4": "1234", "token": None}
    return await gateway().create(order_id=order["id"], amount=amount, currency="USD", key=key, **method)


async def walk(
    lane: str,
    orders: list[dict[str, Any]],
    kill_at: str | None = None,
    fail_at: str | None = None,
    passed: str | None = None,
) -> None:
    """Works on the orders in that lane, until it is killed."""
    if lane in AFTERWARDS and lane != "receive":  # until it has ended, it is any order
        await process_order(orders[0], return_state=True)
        if lane in {"reconcile", "event", "second"}:
            await _pay_again(orders[0])
        if lane == "accept":
            await _pay_for_nothing(orders[0])
    failpoints.watch(_Watcher(kill_at, fail_at, passed, orders[0]["id"] if lane == "cancelled" else None))
    if lane == "receive":  # until its money comes, it waits
        intake.submit(orders)
        await process_pending_orders(consumer_seconds=0, return_state=True)
    if lane == "cancelled":
        await process_order(orders[0], return_state=True)
    elif lane in AFTERWARDS:
        await AFTERWARDS[lane](orders[0]["id"])
    elif lane == "process_order":
        await process_order(orders[0], return_state=True)
    elif lane == "pending":
        intake.submit(orders)
        await process_pending_orders(consumer_seconds=0, return_state=True)
    elif lane == "recover":
        await housekeeping(only_due=True, return_state=True)
    else:
        raise ValueError(lane)


async def declared() -> list[str]:
    """Every point that the code declares."""
    return list(failpoints.declared())
