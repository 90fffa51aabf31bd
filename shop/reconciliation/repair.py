"""Repairs discrepancies with the saga's own compensation: the same code, the same idempotency keys.

An ended order has no owner, so there is no lease to hold. Concurrent repairs of an order run one after the
other, because the second must see the first one's refund: not every gateway recognises a repeated request. If
a lock is lost with its connection, both still send the same requests under the same keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga import journal, manual
from saga.database import Tx, engine, transaction
from saga.errors import StepError
from saga.failpoints import failpoint
from saga.journal import Record
from saga.outcome import Compensation
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, add_notices
from shop.orders import names
from shop.orders.changes import add_failure, correct
from shop.orders.order import OrderInstance, customer_of
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.orders.tries import earlier_money, try_number
from shop.payments.charge import LATE, STEP, refund, settle_earlier_tries
from shop.payments.errors import RefundRefused
from shop.payments.gateway import PaymentGateway, PaymentStatus
from shop.payments.moved import money_moved
from shop.payments.settled import Settled, settled_in
from shop.review import attention
from shop.text.customer_words import hidden

_BEGINNING, _ENDING = failpoint("the commit of mending, intent"), failpoint("the commit of mending, result")
_CANCELLING = failpoint("cancelling a payment that was left")
_REPAIR_LOCK = 7_236_116
_LOCK_FOR_REPAIR = text("SELECT pg_advisory_lock(:lock, hashtext(:id))")
_UNLOCK = text("SELECT pg_advisory_unlock(:lock, hashtext(:id))")
_COMPENSATION = "refund_payment"
_UNCOMPLETED = (Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED)
_LOCK = text(
    "SELECT id, content, fence, outcome, undone, reasons FROM customer_order WHERE id = :id FOR UPDATE"
)


async def refund_ended(order_id: str, gateway: PaymentGateway) -> str | None:
    """Refunds what the gateway keeps for an order that ended uncompleted, cancels unconfirmed payments, and
    records it. Returns why it could not be done, or None. If the refund is refused, the order ends in
    `needs_attention`.

    Raises the gateway's retryable errors.
    """
    async with _order_lock(order_id):
        async with transaction(_BEGINNING) as tx:
            order = await _begin(tx, order_id)
        if order is None:
            return "the order has changed meanwhile"
        try:
            result = await refund(order, gateway)
        except RefundRefused as refused:
            await _end(order, hidden(refused, order.content))
            return str(refused)
        await _end(order, result.model_dump(mode="json"))
        return None


async def refund_earlier_tries(order_id: str, gateway: PaymentGateway) -> str | None:
    """Refunds what earlier tries of a completed order have charged late, and records it. Returns why it could
    not be done, or None. Raises the gateway's errors."""
    async with _order_lock(order_id):
        async with transaction(_BEGINNING) as tx:
            row = (await tx.execute(_LOCK, {"id": order_id})).mappings().one_or_none()
            if row is None or row["outcome"] != Outcome.COMPLETED:
                return "the order has changed meanwhile"
            order = OrderInstance(row["id"], row["content"], row["fence"], ORDERS)
            await journal.load(tx, [order])
        late = await settle_earlier_tries(order, gateway)
        async with transaction(_ENDING) as tx:
            row = (await tx.execute(_LOCK, {"id": order_id})).mappings().one()
            if row["outcome"] != Outcome.COMPLETED:  # its compensation asks the gateway
                return None
            await journal.add_notes(tx, [(order, STEP, {LATE: str(late)})])
            charged, refunded, at_risk = money_moved(order)
            money = {"charged": charged, "refunded": refunded, "at_risk": at_risk}
            await correct(tx, order_id, **money, outcome=row["outcome"], undone=row["undone"])
    return None


async def refund_is_gone(order_id: str, gateway: PaymentGateway) -> bool:
    """Puts the order under manual review, on hold, if the gateway keeps money that our record has as
    refunded.

    Returns whether it did: not if the order has another outcome, or if the gateway has the refund by now.
    Raises the gateway's errors.
    """
    async with _order_lock(order_id):
        # By id: the result of a search may be minutes old.
        payments = [await gateway.get(payment.id) for payment in await gateway.find(order_id)]
        charges = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
        kept = sum((payment.kept for payment in charges), Decimal(0))
        async with transaction(_BEGINNING) as tx:
            order = await _begin(tx, order_id, kept)
        if order is None:
            return False
        payment, earlier = next(p for p in charges if p.kept > 0), earlier_money(order.content)
        gone = RefundRefused(
            "refund_gone",
            "the gateway no longer has the refund: the customer's bank may have returned it",
            payment_id=payment.id,
            charged=sum((each.amount for each in charges), Decimal(0)) - earlier,
            refunded=sum((each.amount_refunded for each in charges), Decimal(0)) - earlier,
            currency=payment.currency,
            settled=(settled_in(order.journal[STEP]) or Settled()).gateway,
            # Gives a refund that a person requests a new key, each time that the bank returns one.
            refusals=order.journal[STEP].undo_attempts,
        )
        await _end(order, gone, hold=True)
        return True


@asynccontextmanager
async def _order_lock(order_id: str) -> AsyncIterator[None]:
    """Locks the order against other repairs, across processes. The lock is released with its connection;
    it holds no transaction, because calls to the gateway take long."""
    async with engine().connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(_LOCK_FOR_REPAIR, {"lock": _REPAIR_LOCK, "id": order_id})
            yield
            await connection.execute(_UNLOCK, {"lock": _REPAIR_LOCK, "id": order_id})
        except BaseException:
            await connection.invalidate()  # releases the lock
            raise


async def cancel_unconfirmed(order_id: str, payment_id: str, gateway: PaymentGateway) -> None:
    """Cancels a payment that was created but not confirmed, so that it can never be charged."""
    with _CANCELLING:
        await gateway.cancel(payment_id, key=names.key(order_id, f"cancel-{payment_id}"))


async def _begin(tx: Tx, order_id: str, kept: Decimal | None = None) -> OrderInstance | None:
    """Begins the compensation. Returns None if the order has another outcome, or if `kept`, what the gateway
    keeps, is no more than what a person has settled."""
    row = (await tx.execute(_LOCK, {"id": order_id})).mappings().one_or_none()
    if row is None or row["outcome"] not in _UNCOMPLETED:
        return None
    order = OrderInstance(row["id"], row["content"], row["fence"], ORDERS)
    await journal.load(tx, [order])
    if kept is not None and kept <= (settled_in(order.journal.get(STEP)) or Settled()).gateway:
        return None
    await tx.run_sync(manual.begin_step, ORDERS, order_id, STEP)  # adds a charge that the journal lacks
    await journal.load(tx, [order])
    await journal.begin_undo(tx, STEP, [order])
    return order


async def _end(order: OrderInstance, end: dict[str, Any] | RefundRefused, *, hold: bool = False) -> None:
    refused = isinstance(end, RefundRefused)
    async with transaction(_ENDING) as tx:
        row = (await tx.execute(_LOCK, {"id": order.id})).mappings().one()
        if row["outcome"] not in _UNCOMPLETED:
            return
        error = end.details() if isinstance(end, StepError) else None
        result = end if isinstance(end, dict) else None
        await journal.write_undo(
            tx, STEP, [Record(order, STEP, "failed" if refused else "done", result=result, error=error)]
        )
        charged, refunded, at_risk = money_moved(order)
        details = error or result or {}
        undone = Compensation(
            step=STEP,
            compensation=_COMPENSATION,
            status="failed" if refused else str(details.get("compensation_status")),
            details=details,
        )
        others = [each for each in row["undone"] if each["step"] != STEP]
        await correct(
            tx,
            order.id,
            charged=charged,
            refunded=refunded,
            at_risk=at_risk,
            outcome=Outcome.NEEDS_ATTENTION if refused else row["outcome"],
            undone=[*others, undone.model_dump(mode="json")],
        )
        currency = str(details.get("currency", "USD"))
        if refused:
            reasons = row["reasons"]
            failure = {"code": row["outcome"], "message": "; ".join(reasons), "reasons": reasons}
            # A retry of the refund reopens the order, which must then not go forward.
            await add_failure(tx, order.id, {**failure, "retryable": False})
            await attention.put(tx, [attention.case_of(order, at_risk, currency)], hold=hold)
        given_back = refunded - earlier_money(order.content)
        if given_back > 0 and not hold:
            money, customer = {"amount": str(given_back), "currency": currency}, customer_of(order.content)
            notice = Notice(order.id, customer, Kind.REFUND, money, money, try_number(order))
            await add_notices(tx, [notice])
