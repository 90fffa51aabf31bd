"""Mending what can be mended without guessing, by the saga's own compensation: the same code, the same
idempotency keys.

An order that has ended belongs to nobody, so there is no lease to hold. Two that mend it at once do so one
after the other, for the second must see what the first has given back: not every gateway knows the same
request again. Should one lose its place all the same (a connection that breaks), both ask for the same things
under the same keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga import journal, manual
from saga.database import Tx, as_json, engine, transaction
from saga.errors import StepError
from saga.failpoints import failpoint
from saga.journal import Record
from saga.outcome import Compensation
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, add_notices
from shop.orders import names
from shop.orders.order import OrderInstance
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.payments.charge import STEP, money_moved, refund
from shop.payments.errors import RefundRefused
from shop.payments.gateway import PaymentGateway, PaymentStatus
from shop.review import attention
from shop.text.customer_words import hidden

_BEGINNING, _ENDING = failpoint("the commit of mending, intent"), failpoint("the commit of mending, result")
_CANCELLING = failpoint("cancelling a payment that was left")
_MENDING = 7_236_116
_TAKE_TURN = text("SELECT pg_advisory_lock(:mending, hashtext(:id))")
_GIVE_TURN = text("SELECT pg_advisory_unlock(:mending, hashtext(:id))")
_COMPENSATION = "refund_payment"
_UNCOMPLETED = (Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED)
_LOCK = text("SELECT id, content, fence, outcome, undone, reasons FROM customer_order WHERE id = :id FOR UPDATE")
_SETTLE = text(
    "UPDATE customer_order SET amount_charged = :charged, amount_refunded = :refunded, amount_at_risk = :at_risk, outcome = :outcome, "
    "status = :outcome, undone = CAST(:undone AS jsonb) WHERE id = :id"
)
# Trying the refund again opens the order again, and then it must not go forward: those that had nothing to
# undo have no failure yet.
_REMEMBER = text("UPDATE customer_order SET failure = CAST(:failure AS jsonb) WHERE id = :id AND failure IS NULL")


async def refund_ended(order_id: str, gateway: PaymentGateway) -> str | None:
    """Gives back what the gateway keeps for an order that ended uncompleted, cancels what was only created,
    and writes it down. Returns why it could not be done, or None. An order whose refund is refused ends in
    `needs_attention`, for a person.

    Raises what the gateway raises if trying again can help.
    """
    async with _alone_with(order_id):
        async with transaction(_BEGINNING) as tx:
            order = await _begin(tx, order_id)
        if order is None:
            return "the order is not as it was"
        try:
            result = await refund(order, gateway)
        except RefundRefused as refused:
            await _end(order, hidden(refused, order.content))
            return str(refused)
        await _end(order, result.model_dump(mode="json"))
        return None


async def refund_is_gone(order_id: str, gateway: PaymentGateway) -> bool:
    """The gateway keeps money that we have as given back: the order is put on the desk, where nothing is
    retried by itself. Whether it was (not if it ended otherwise, or if the gateway says by now that the money
    is back). Raises what the gateway raises."""
    async with _alone_with(order_id):
        # By their ids: what a search tells may be minutes old.
        payments = [await gateway.get(payment.id) for payment in await gateway.find(order_id)]
        charges = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
        if not any(payment.kept > 0 for payment in charges):
            return False
        async with transaction(_BEGINNING) as tx:
            order = await _begin(tx, order_id)
        if order is None:
            return False
        payment = next(payment for payment in charges if payment.kept > 0)
        gone = RefundRefused(
            "refund_gone",
            "the gateway does not have the refund (any more): the customer's bank may have sent it back",
            payment_id=payment.id,
            charged=sum((each.amount for each in charges), Decimal(0)),
            refunded=sum((each.amount_refunded for each in charges), Decimal(0)),
            currency=payment.currency,
            refusals=1,  # so that a refund that a person asks for is a new request
        )
        await _end(order, gone, hold=True)
        return True


@asynccontextmanager
async def _alone_with(order_id: str) -> AsyncIterator[None]:
    """One process at a time; a lock that is gone with the connection. Outside of any transaction, for calls
    to the gateway take long."""
    async with engine().connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(_TAKE_TURN, {"mending": _MENDING, "id": order_id})
            yield
            await connection.execute(_GIVE_TURN, {"mending": _MENDING, "id": order_id})
        except BaseException:
            await connection.invalidate()  # and with it the lock
            raise


async def cancel_left(order_id: str, payment_id: str, gateway: PaymentGateway) -> None:
    """Makes sure that a payment that was only created can never be charged."""
    with _CANCELLING:
        await gateway.cancel(payment_id, key=names.key(order_id, f"cancel-{payment_id}"))


async def _begin(tx: Tx, order_id: str) -> OrderInstance | None:
    row = (await tx.execute(_LOCK, {"id": order_id})).mappings().one_or_none()
    if row is None or row["outcome"] not in _UNCOMPLETED:
        return None
    order = OrderInstance(row["id"], row["content"], row["fence"], ORDERS)
    await tx.run_sync(manual.begin_step, ORDERS, order_id, STEP)  # a charge that is not in the journal gets there
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
        await journal.write_undo(tx, STEP, [Record(order, STEP, "failed" if refused else "done", result=result, error=error)])
        charged, refunded, at_risk = money_moved(order)
        told = error or result or {}
        undone = Compensation(
            step=STEP, compensation=_COMPENSATION, status="failed" if refused else str(told.get("compensation_status")), details=told
        )
        others = [each for each in row["undone"] if each["step"] != STEP]
        await tx.execute(
            _SETTLE,
            {
                "id": order.id,
                "charged": charged,
                "refunded": refunded,
                "at_risk": at_risk,
                "outcome": Outcome.NEEDS_ATTENTION if refused else row["outcome"],
                "undone": as_json([*others, undone.model_dump(mode="json")]),
            },
        )
        if refused:
            failure = {"code": row["outcome"], "message": "; ".join(row["reasons"]), "retryable": False, "reasons": row["reasons"]}
            await tx.execute(_REMEMBER, {"id": order.id, "failure": as_json(failure)})
            await attention.put(tx, [attention.case_of(order, at_risk, str(told.get("currency", "USD")))], hold=hold)
        if refunded > 0 and not hold:
            money = {"amount": str(refunded), "currency": str(told.get("currency", "USD"))}
            await add_notices(tx, [Notice(order.id, str(order.content.get("customer_id")), Kind.REFUND, money, money)])
