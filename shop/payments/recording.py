"""Records money that came for an order by transfer, or was collected on delivery, and what was given back of
it because it was more than is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, text

from saga import manual
from saga.database import transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.orders.changes import end_postponement
from shop.orders.entered import EnteredId, Words
from shop.orders.outcomes import Outcome
from shop.orders.parts import BANK_TRANSFER, CASH_ON_DELIVERY
from shop.orders.scalars import Amount
from shop.orders.store import ORDERS
from shop.payments.charge import STEP
from shop.payments.elsewhere import SUM
from shop.payments.errors import (
    AmountInvalid,
    NotPaidThisWay,
    NotReceivable,
    PayableOrderUnknown,
    PaymentAwaited,
    PaymentsNotRecorded,
    ReferenceConflict,
)
from shop.runtime.sync import run_sync
from shop.values import money
from shop.values.frozen import Frozen
from shop.values.messages import in_words

MOST = 5_000
"""Limits the payments of one call of `record_all`."""
_ORDER = text(
    "SELECT outcome, failure IS NOT NULL AS failing, content, content ->> 'currency' AS currency, "
    "content -> 'payment_info' ->> 'method' AS method "
    "FROM customer_order WHERE id = :id FOR NO KEY UPDATE"
)
_ADD = text(
    "INSERT INTO received_payment (order_id, reference, amount, currency, recorded_by) "
    "VALUES (:id, :reference, :amount, :currency, :by) ON CONFLICT DO NOTHING RETURNING order_id"
)
_KNOWN = text("SELECT amount FROM received_payment WHERE order_id = :id AND reference = :reference")
# What the shop said is paid, without naming a transfer: a transfer that is recorded is the same money.
_OF_SHOP = "reference = left(recorded_by || ': ' || order_id, 200)"
_REPLACE_OF_SHOP = text(
    f"UPDATE received_payment SET amount = amount - least(amount, :amount) "  # noqa: S608  (a constant)
    f"WHERE order_id = :id AND {_OF_SHOP} AND reference <> :reference"
)
_DROP_REPLACED = text("DELETE FROM received_payment WHERE order_id = :id AND amount = 0")
_RECORDING = failpoint("the commit of a received payment")


def _not_zero(amount: Decimal) -> Decimal:
    if amount == 0:
        raise ValueError("it has to be more than 0; less than 0 for money that was given back")
    return amount


class MoneyReceived(Frozen):
    """Money that came by transfer or on delivery, as whoever saw it records it. A negative amount was given
    back, of what came beyond what is due."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    amount: Annotated[Amount, AfterValidator(_not_zero)] = Field(
        description="What came, in the order's currency; negative: what was given back of the excess",
        examples=["1059.97"],
    )
    reference: EnteredId = Field(
        description="Number of the bank's transfer or of the carrier's settlement: the same again changes "
        "nothing",
        examples=["2031-02-03/17"],
    )
    recorded_by: Words = Field(description="Who records it; no card data", examples=["ann"])


class IncomingPayment(MoneyReceived):
    """Money that came for this order."""

    order_id: EnteredId = Field(description="The order's id", examples=["ORDER-1001"])


class Received(BaseModel):
    """What became of one payment."""

    order_id: str
    reference: str
    amount: Decimal
    currency: str
    total_received: Decimal = Field(description="All that was received for the order until now")
    overpaid: Decimal = Field(
        default=Decimal(0), description="What of it is more than is due; somebody has to give that back"
    )
    new: bool = Field(description="false: the same was recorded before")
    outcome: Outcome | None = Field(
        default=None,
        description="of the order; unless it is `completed`, somebody has to give the money back",
    )

    @property
    def came_in_vain(self) -> bool:
        """Whether the order has ended uncompleted, so that its money has to be given back."""
        return self.outcome not in {None, Outcome.COMPLETED}

    @property
    def to_do(self) -> str:
        """What somebody has to do about the money; empty if nothing."""
        if self.came_in_vain:
            return f"the order is {self.outcome}: give the money back"
        if self.overpaid:
            return f"{money.show(self.overpaid, self.currency)} are more than is due: give them back"
        return ""


def read_incoming(raw: object) -> IncomingPayment:
    """Reads a payment. Raises `NotReceivable` with every problem."""
    try:
        return IncomingPayment.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    raise NotReceivable(*[(".".join(map(str, each["loc"])), in_words(each)) for each in found])


async def record(payment: IncomingPayment) -> Received:
    """Records money that came for an order. The same reference again changes nothing. An order that waits for
    the money continues at once. Raises `NotReceivable`."""
    async with transaction(_RECORDING) as tx:
        return await tx.run_sync(_record, payment)


async def record_all(payments: Sequence[IncomingPayment]) -> list[Received]:
    """Records all the payments, or raises `PaymentsNotRecorded` and records none."""
    async with transaction(_RECORDING) as tx:
        return await tx.run_sync(_record_all, payments)


async def record_rest(order_id: str, shop: str) -> Received | None:
    """Records that the shop says that the order is paid: what is missing of the amount due. Returns None if
    nothing is, or if the order is not valid. A transfer that is recorded later replaces it. Raises
    `NotReceivable`."""
    async with transaction(_RECORDING) as tx:
        return await tx.run_sync(_record_rest, order_id, shop)


def _record_rest(connection: Connection, order_id: str, shop: str) -> Received | None:
    order = connection.execute(_ORDER, {"id": order_id}).one_or_none()
    if order is None or (due := _due(order.content)) is None:
        return None
    came = connection.execute(SUM, {"id": order_id, "currency": order.currency}).scalar_one()
    if (missing := due - came) <= 0:
        return None
    # One reference for each order: the shop's messages name different transactions.
    payment = {"order_id": order_id, "amount": missing, "reference": f"{shop}: {order_id}"[:200]}
    return _record(connection, read_incoming({**payment, "recorded_by": shop}))


def record_all_sync(payments: Sequence[IncomingPayment]) -> list[Received]:
    return run_sync(lambda: record_all(payments))


def _record_all(connection: Connection, payments: Sequence[IncomingPayment]) -> list[Received]:
    done: dict[int, Received] = {}
    errors: dict[int, NotReceivable] = {}
    # In the orders' sequence, so that two calls do not wait for each other.
    for position, payment in sorted(enumerate(payments), key=lambda each: (each[1].order_id, each[0])):
        try:
            done[position] = _record(connection, payment)
        except NotReceivable as error:
            errors[position] = error
    if errors:
        raise PaymentsNotRecorded(dict(sorted(errors.items())))
    return [done[position] for position in range(len(payments))]


def _record(connection: Connection, payment: IncomingPayment) -> Received:
    order = connection.execute(_ORDER, {"id": payment.order_id}).one_or_none()
    if order is None:
        raise PayableOrderUnknown(("order_id", f"there is no order {payment.order_id}"))
    if order.method not in {BANK_TRANSFER, CASH_ON_DELIVERY}:
        raise NotPaidThisWay(("", f"the order is paid neither by {BANK_TRANSFER} nor by {CASH_ON_DELIVERY}"))
    if not money.is_currency(order.currency):
        raise NotPaidThisWay(("", "the order has no valid currency"))
    if not money.fits(payment.amount, order.currency):
        digits = money.decimals(order.currency)
        raise AmountInvalid(("amount", f"{order.currency} has {digits} decimals"))
    row = {
        "id": payment.order_id,
        "reference": payment.reference,
        "amount": payment.amount,
        "currency": order.currency,
        "by": payment.recorded_by,
    }
    due = _due(order.content)
    if payment.amount < 0 and not connection.execute(_KNOWN, row).one_or_none():
        _check_returned(payment, order, due, Decimal(connection.execute(SUM, row).scalar_one()))
    new = connection.execute(_ADD, row).one_or_none() is not None
    if not new and (known := connection.execute(_KNOWN, row).scalar_one()) != payment.amount:
        shown = money.show(known, order.currency)
        raise ReferenceConflict(("reference", f"{payment.reference} was recorded before with {shown}"))
    if new and order.outcome is None and order.failing:  # its compensation may have looked already
        raise NotReceivable(("order_id", "the order is being compensated: record it again in a minute"))
    if new and payment.amount > 0:
        connection.execute(_REPLACE_OF_SHOP, row)
        connection.execute(_DROP_REPLACED, row)
    # A worker that has the order reads the sum itself, or postpones it with the hook `urgent`.
    if new and end_postponement(connection, payment.order_id, PaymentAwaited.code):
        connection.execute(notification(ORDERS, WAITING))
    if new and order.outcome not in {None, Outcome.COMPLETED}:  # in vain: a person has to give it back
        manual.begin_step(connection, ORDERS, payment.order_id, STEP)
        # Any worker compensates it again, and finds the money.
        manual.reopen(connection, ORDERS, [payment.order_id])
        connection.execute(notification(ORDERS, WAITING))
    total = Decimal(connection.execute(SUM, row).scalar_one())
    received = Received(
        order_id=payment.order_id,
        reference=payment.reference,
        amount=money.exact(payment.amount, order.currency),
        currency=order.currency,
        total_received=money.exact(total, order.currency),
        new=new,
        outcome=order.outcome,
    )
    if not received.came_in_vain and due is not None:
        received.overpaid = money.exact(max(Decimal(0), total - due), order.currency)
    return received


def _due(content: Mapping[str, Any]) -> Decimal | None:
    """Returns what is due for the order; None if the order is not valid."""
    try:
        return ORDERS.parse(content).amount_due
    except ValidationError:
        return None


def _check_returned(payment: IncomingPayment, order: Any, due: Decimal | None, came: Decimal) -> None:
    """Raises `NotReceivable` if more is given back than came beyond what is due."""
    if order.outcome not in {None, Outcome.COMPLETED}:
        raise NotReceivable(("amount", f"the order is {order.outcome}: use order-saga review refunded"))
    excess = Decimal(0) if due is None else max(Decimal(0), came - due)
    if -payment.amount > excess:
        shown = money.show(excess, order.currency)
        raise NotReceivable(("amount", f"{shown} are more than is due, and no more can be given back"))
