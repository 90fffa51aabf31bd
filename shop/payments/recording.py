"""Records money that came for an order by transfer, or was collected on delivery."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, text

from saga.database import transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.orders.payment_methods import BANK_TRANSFER, CASH_ON_DELIVERY
from shop.orders.store import ORDERS
from shop.payments.errors import NotReceivable, PaymentAwaited
from shop.payments.received import SUM
from shop.values import money

_LONGEST = 200
"""Limits the reference and the name of who recorded it, in characters."""
_ORDER = text(
    "SELECT outcome, content ->> 'currency' AS currency, content -> 'payment_info' ->> 'method' AS method "
    "FROM customer_order WHERE id = :id FOR NO KEY UPDATE"
)
_ADD = text(
    "INSERT INTO received_payment (order_id, reference, amount, currency, recorded_by) "
    "VALUES (:id, :reference, :amount, :currency, :by) ON CONFLICT DO NOTHING RETURNING order_id"
)
_KNOWN = text("SELECT amount FROM received_payment WHERE order_id = :id AND reference = :reference")
# Wakes an order that waits for this money, unless a worker has it, which reads the sum itself.
_WAKE = text(
    "UPDATE customer_order SET not_before = NULL WHERE id = :id AND outcome IS NULL AND lease_id IS NULL "
    "AND waits_for = :code"
)
_RECORDING = failpoint("the commit of a received payment")


class Received(BaseModel):
    """What `record` did."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    reference: str
    amount: Decimal
    currency: str
    total_received: Decimal
    """All that was received for the order until now."""
    new: bool
    """False: the same was recorded before."""


async def record(order_id: str, amount: Decimal, *, reference: str, recorded_by: str) -> Received:
    """Records money that came for an order. The same reference again changes nothing: it is the number of the
    bank's transfer, or of the carrier's settlement. An order that waits for the money goes on at once.

    Raises `NotReceivable`, with every problem.
    """
    async with transaction(_RECORDING) as tx:
        return await tx.run_sync(_record, order_id.strip(), amount, reference.strip(), recorded_by.strip())


def _record(connection: Connection, order_id: str, amount: Decimal, reference: str, by: str) -> Received:
    order = connection.execute(_ORDER, {"id": order_id}).one_or_none()
    if order is None:
        raise NotReceivable(f"there is no order {order_id}")
    problems = []
    if order.method not in {BANK_TRANSFER, CASH_ON_DELIVERY}:
        problems.append("the order is paid neither by bank_transfer nor by cash_on_delivery")
    if not amount > 0 or not money.is_currency(order.currency) or not money.fits(amount, order.currency):
        problems.append(f"the amount is not one of {order.currency}, more than 0")
    for name, given in (("reference", reference), ("recorded_by", by)):
        if not 0 < len(given) <= _LONGEST:
            problems.append(f"{name} needs 1 to {_LONGEST} characters")
    if problems:
        raise NotReceivable(*problems)
    row = {"id": order_id, "reference": reference, "amount": amount, "currency": order.currency, "by": by}
    new = connection.execute(_ADD, row).one_or_none() is not None
    if not new and connection.execute(_KNOWN, row).scalar_one() != amount:
        raise NotReceivable(f"the reference {reference} was recorded with another amount")
    if new and connection.execute(_WAKE, {"id": order_id, "code": PaymentAwaited.code}).rowcount:
        connection.execute(notification(ORDERS, WAITING))
    total = connection.execute(SUM, row).scalar_one()
    return Received(
        order_id=order_id,
        reference=reference,
        amount=amount,
        currency=order.currency,
        total_received=money.exact(Decimal(total), order.currency),
        new=new,
    )
