"""Charging an order, and giving its money back, through whatever gateway there is.

Promise 5: an unclear result counts as done until proven otherwise. So the refund does not ask our journal what was charged, it asks
the gateway, by order id.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shop import names
from shop.errors import NoDeliveryAddress, PaymentError, PaymentGatewayError, PaymentRefused, RefundRefused
from shop.money import to_minor
from shop.notes import note
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus, Refund
from shop.points import effect
from shop.under_way import OrderUnderWay

STEP = "process_payment"
_CREATING, _CONFIRMING, _CANCELLING, _REFUNDING = (
    effect(what) for what in ("creating a payment", "confirming a payment", "cancelling a payment", "refunding a payment")
)


class PaymentResult(BaseModel):
    """What `process_payment` produces."""

    payment_status: Literal["charged"] = "charged"
    payment_id: str
    transaction_id: str
    amount_charged: Decimal
    currency: str
    gateway_fee: Decimal
    payment_method: str
    charged_at: datetime


class RefundResult(BaseModel):
    """What `refund_payment` produces. `amount_charged`: what the gateway says had been charged."""

    compensation_status: Literal["success", "cancelled", "no_payment_to_refund"]
    refund_id: str | None = None
    refunded_amount: Decimal = Decimal(0)
    amount_charged: Decimal = Decimal(0)
    currency: str
    original_payment_id: str | None = None
    refund_timestamp: datetime | None = None


async def charge(under_way: OrderUnderWay, gateway: PaymentGateway) -> PaymentResult:
    """Creates the payment, journals its id, confirms it by that id. Charges once, however often it is called."""
    order = under_way.order
    if order.payment_info is None:
        raise PaymentRefused("the order has no payment_info, so there is nothing to charge")
    if order.shipping_info is None:
        raise NoDeliveryAddress
    payment_id = under_way.journal[STEP].notes.get("payment_id")
    if payment_id is None:
        payment = await _find_or_create(under_way, gateway)
        payment_id = payment.id
        await note(under_way, STEP, payment_id=payment_id)
    elif under_way.journal[STEP].attempts > 1 and (payment := await gateway.get(payment_id)).status is PaymentStatus.SUCCEEDED:
        return _charged(payment)
    with _CONFIRMING:
        return _charged(await gateway.confirm(payment_id, key=names.key(order.id, f"confirm-{payment_id}")))


async def _find_or_create(under_way: OrderUnderWay, gateway: PaymentGateway) -> Payment:
    """On a first attempt nothing can be there; on a later one the gateway may know a payment whose id a crash has lost."""
    order = under_way.order
    if under_way.journal[STEP].attempts > 1:
        usable = [p for p in await gateway.find(order.id) if p.status in {PaymentStatus.SUCCEEDED, PaymentStatus.CREATED}]
        usable.sort(key=lambda payment: payment.status is PaymentStatus.CREATED)
        if usable and (usable[0].amount, usable[0].currency) == (order.total_amount, order.currency):
            return usable[0]
    info = order.payment_info
    if info is None:
        raise PaymentRefused("the order has no payment_info, so there is nothing to charge")
    with _CREATING:
        return await gateway.create(
            order_id=order.id,
            amount=order.total_amount,
            currency=order.currency,
            method=info.method,
            card_last4=info.card_last4,
            token=info.token,
            key=names.key(order.id, "create"),
        )


def _charged(payment: Payment) -> PaymentResult:
    if payment.status is not PaymentStatus.SUCCEEDED or payment.transaction_id is None or payment.charged_at is None:
        raise PaymentGatewayError("not_charged", f"the gateway answered {payment.status} to a confirmation", retryable=True)
    return PaymentResult(
        payment_id=payment.id,
        transaction_id=payment.transaction_id,
        amount_charged=payment.amount,
        currency=payment.currency,
        gateway_fee=payment.fee,
        payment_method=payment.method,
        charged_at=payment.charged_at,
    )


async def refund(under_way: OrderUnderWay, gateway: PaymentGateway) -> RefundResult:
    """Refunds what was really charged and cancels what was only created, whatever our journal knows.

    Raises `RefundRefused` when the gateway will not give some of the money back: then a person has to. The rest went back all the same.
    """
    entry = under_way.journal.get(STEP)
    refusals = int((entry.undo_error or {}).get("refusals", 0)) if entry else 0
    undone = _Undone(_currency(under_way))
    refused: PaymentError | None = None
    for payment in await payments_of(under_way.id, entry.notes.get("payment_id") if entry else None, gateway):
        try:
            await _undo(under_way, payment, gateway, undone, refusals)
        except PaymentError as error:
            if error.retryable:
                raise
            refused = refused or error
            undone.payment_id = payment.id
    if refused is not None:
        raise RefundRefused(
            refused.error_code,
            refused.error_message,
            payment_id=str(undone.payment_id),
            charged=undone.charged,
            refunded=undone.refunded,
            currency=undone.currency,
            refusals=refusals + 1,
        )
    return undone.result()


async def payments_of(order_id: str, journalled: str | None, gateway: PaymentGateway) -> list[Payment]:
    """The order's payments; also the one whose id is journalled, which the gateway's search may not show yet."""
    payments = await gateway.find(order_id)
    if journalled is not None and journalled not in {payment.id for payment in payments}:
        payments.append(await gateway.get(journalled))
    return payments


@dataclass(slots=True)
class _Undone:
    """What was found at the gateway, and what went back, all payments of the order together."""

    currency: str
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    payment_id: str | None = None
    refund_id: str | None = None
    when: datetime | None = None
    cancelled: bool = False

    def result(self) -> RefundResult:
        return RefundResult(
            compensation_status="success" if self.charged else "cancelled" if self.cancelled else "no_payment_to_refund",
            refund_id=self.refund_id,
            refunded_amount=self.refunded,
            amount_charged=self.charged,
            currency=self.currency,
            original_payment_id=self.payment_id,
            refund_timestamp=self.when,
        )


async def _undo(under_way: OrderUnderWay, payment: Payment, gateway: PaymentGateway, undone: _Undone, refusals: int) -> None:
    if payment.status is PaymentStatus.CREATED:
        with _CANCELLING:
            payment = await gateway.cancel(payment.id, key=names.key(under_way.id, f"cancel-{payment.id}"))  # may find it charged meanwhile
    undone.cancelled = undone.cancelled or payment.status is PaymentStatus.CANCELLED
    undone.payment_id = undone.payment_id or payment.id
    if payment.status is not PaymentStatus.SUCCEEDED:
        return
    undone.payment_id, undone.currency = payment.id, payment.currency
    undone.charged += payment.amount
    undone.refunded += payment.amount_refunded
    for earlier in payment.refunds:
        undone.refund_id, undone.when = earlier.id, earlier.created_at
    left = payment.amount - payment.amount_refunded
    if left > 0:
        # A gateway repeats its answer to a key. So a refusal, which is final, makes the next try a new request; a timeout does not.
        key = names.key(under_way.id, f"refund-{payment.id}-{to_minor(left, payment.currency)}-{refusals}")
        made = await _give_back(payment, left, gateway, key)
        undone.refund_id, undone.when = made.id, made.created_at
        undone.refunded += left


async def _give_back(payment: Payment, left: Decimal, gateway: PaymentGateway, key: str) -> Refund:
    """A refusal may mean that the money has gone back already, by a request of a worker that is dead now and that arrived late."""
    try:
        with _REFUNDING:
            return await gateway.refund(payment.id, amount=left, currency=payment.currency, key=key)
    except PaymentError as refused:
        if refused.retryable:
            raise
        now = await gateway.get(payment.id)
        if now.kept > 0 or not now.refunds:
            raise
        return now.refunds[-1]


def money_moved(under_way: OrderUnderWay) -> tuple[Decimal, Decimal, Decimal]:
    """(charged, refunded, at risk) by the journal: at risk is what may have been charged and is not known to be back."""
    entry = under_way.journal.get(STEP)
    if entry is None:
        return Decimal(0), Decimal(0), Decimal(0)
    undone, done, error = entry.undo_result or {}, entry.result or {}, entry.undo_error or {}
    found = undone or error
    refunded = Decimal(found.get("refunded_amount", 0))
    charged = max(Decimal(done.get("amount_charged", 0)), Decimal(found.get("amount_charged", 0)))
    if not entry.undo_due or entry.undo_status != "failed":
        return charged, refunded, Decimal(0)
    at_risk = error.get("amount_at_risk") or done.get("amount_charged") or under_way.order.total_amount
    return charged, refunded, Decimal(at_risk)


def given_by_hand(under_way: OrderUnderWay) -> Decimal:
    """What a person says to have given back past the gateway."""
    entry = under_way.journal.get(STEP)
    return Decimal((entry.undo_result or {}).get("refunded_by_hand", 0)) if entry else Decimal(0)


def _currency(under_way: OrderUnderWay) -> str:
    return str(under_way.content.get("currency", "USD"))
