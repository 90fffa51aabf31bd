"""Charging an order, and giving its money back, through whatever gateway there is.

Promise 5: an unclear result counts as done until proven otherwise. So the refund does not ask our journal what was charged, it asks
the gateway, by order id. The gateway is not believed everything, either: an answer about another order, amount or currency than ours is
neither a charge nor none, and never more goes back than the order's amount. Both come to a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal, NoReturn

from pydantic import BaseModel

from saga.checkpoint import checkpoint
from saga.failpoints import failpoint
from shop.orders import names
from shop.orders.order import OrderInstance
from shop.payments.errors import NoDeliveryAddress, PaymentError, PaymentGatewayError, PaymentMismatch, PaymentRefused, RefundRefused
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus, Refund
from shop.values.money import to_minor

STEP = "process_payment"
MOST_UNCLEAR_REFUNDS = 5
"""Refunds of one order that are asked for without a clear answer, before a person has to look. A gateway may pay each of them."""
_NOT_SENT = frozenset({"unreachable", "circuit_open", "authentication"})
"""Errors after which the gateway has certainly not done what it was asked for."""
_CREATING, _CONFIRMING, _CANCELLING, _REFUNDING = (
    failpoint(what) for what in ("creating a payment", "confirming a payment", "cancelling a payment", "refunding a payment")
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


async def charge(instance: OrderInstance, gateway: PaymentGateway) -> PaymentResult:
    """Creates the payment, journals its id, confirms it by that id. Charges once, however often it is called."""
    order = instance.payload
    if order.payment_info is None:
        raise PaymentRefused("the order has no payment_info, so there is nothing to charge")
    if order.shipping_info is None:
        raise NoDeliveryAddress
    payment_id = instance.journal[STEP].notes.get("payment_id")
    if payment_id is None:
        payment = _checked(instance, await _find_or_create(instance, gateway))
        payment_id = payment.id
        await checkpoint(instance, STEP, payment_id=payment_id)
    elif instance.journal[STEP].attempts > 1:
        payment = _checked(instance, await gateway.get(payment_id), payment_id)
        if payment.status is PaymentStatus.SUCCEEDED:
            return _charged(payment)
    with _CONFIRMING:
        confirmed = await gateway.confirm(payment_id, key=names.key(order.id, f"confirm-{payment_id}"))
    return _charged(_checked(instance, confirmed, payment_id))


def _checked(instance: OrderInstance, payment: Payment, payment_id: str | None = None) -> Payment:
    """The payment, if it is the one that was asked about, of this order, its amount and its currency; else raises `PaymentMismatch`."""
    if payment_id not in {None, payment.id}:
        raise PaymentMismatch("payment")
    if differs := _differs(instance, payment):
        raise PaymentMismatch(differs)
    return payment


def _differs(instance: OrderInstance, payment: Payment) -> str | None:
    """In what the payment is another than the order's; None: it is the order's."""
    if payment.order_id != instance.id:
        return "order"
    if payment.currency != _currency(instance):
        return "currency"
    if payment.amount != _due(instance):
        return "amount"
    if payment.amount_refunded != sum(each.amount for each in payment.refunds) or payment.amount_refunded > payment.amount:
        return "sum of refunds"
    return None


def _due(instance: OrderInstance) -> Decimal:
    """What was to be charged; nothing if the order has no proper total, and so was never to be charged."""
    try:
        return Decimal(str(instance.result(STEP).get("amount_charged") or instance.content.get("total_amount")))
    except InvalidOperation:
        return Decimal(0)


async def _find_or_create(instance: OrderInstance, gateway: PaymentGateway) -> Payment:
    """On a first attempt nothing can be there; on a later one the gateway may know a payment whose id a crash has lost."""
    order = instance.payload
    if instance.journal[STEP].attempts > 1:
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


async def refund(instance: OrderInstance, gateway: PaymentGateway) -> RefundResult:
    """Refunds what was really charged and cancels what was only created, whatever our journal knows.

    Raises `RefundRefused` when a person has to look: the gateway will not give some of the money back, would have us give back more than
    the order's amount, or has not clearly answered too many refunds. The rest went back all the same.
    """
    entry = instance.journal.get(STEP)
    journalled = entry.notes.get("payment_id") if entry else None
    earlier = (entry.undo_error or {}) if entry else {}
    refusals, unclear = int(earlier.get("refusals", 0)), int(earlier.get("unclear_refunds", 0))
    undone = _Undone(_currency(instance))
    refused: PaymentError | None = None
    payments = await payments_of(instance.id, journalled, gateway)
    for payment in sorted(payments, key=lambda payment: payment.id != journalled):  # the one that we know of first
        try:
            await _undo(instance, payment, gateway, undone, (refusals, unclear))
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


async def _undo(instance: OrderInstance, payment: Payment, gateway: PaymentGateway, undone: _Undone, before: tuple[int, int]) -> None:
    """`before`: how many refunds of the order were refused, and how many had no clear answer."""
    refusals, unclear = before
    if payment.order_id != instance.id:
        _doubt(instance, undone, "the journalled payment is another order's: nothing is refunded")
    if payment.status is PaymentStatus.CREATED:
        with _CANCELLING:
            payment = await gateway.cancel(payment.id, key=names.key(instance.id, f"cancel-{payment.id}"))  # may find it charged meanwhile
    undone.cancelled = undone.cancelled or payment.status is PaymentStatus.CANCELLED
    undone.payment_id = undone.payment_id or payment.id
    if payment.status is not PaymentStatus.SUCCEEDED:
        if instance.result(STEP).get("payment_id") == payment.id:
            _doubt(instance, undone, f"the gateway says that the payment is {payment.status}, and had said that it was charged")
        return
    if (differs := _differs(instance, payment)) and not _is_back(payment):
        told = payment.charged if payment.currency == undone.currency else None
        _doubt(instance, undone, f"the gateway says that another {differs} was charged than the order's", told)
    undone.payment_id, undone.currency = payment.id, payment.currency
    undone.charged += payment.amount
    undone.refunded += payment.amount_refunded
    for earlier in payment.refunds:
        undone.refund_id, undone.when = earlier.id, earlier.created_at
    left = payment.amount - payment.amount_refunded
    if left <= 0:
        return
    _check_refund(instance, payment, undone, unclear)
    # A gateway repeats its answer to a key. So a refusal, which is final, makes the next try a new request; a timeout does not.
    key = names.key(instance.id, f"refund-{payment.id}-{to_minor(left, payment.currency)}-{refusals}")
    try:
        made = await _give_back(payment, left, gateway, key)
    except PaymentError as error:
        if error.retryable and error.error_code not in _NOT_SENT:
            error.unclear_refunds = unclear + 1
        raise
    undone.refund_id, undone.when = made.id, made.created_at
    undone.refunded += left


def _is_back(payment: Payment) -> bool:
    """Whether all that was charged has gone back, so that nothing is left to decide about it."""
    return payment.kept == 0 < payment.charged == sum(each.amount for each in payment.refunds)


def _doubt(instance: OrderInstance, undone: _Undone, why: str, told: Decimal | None = None) -> NoReturn:
    """Leaves the payment to a person. Until then, what the gateway says to have charged (`told`), or else the order's amount, counts as
    charged and not refunded."""
    undone.charged += told or _due(instance)
    raise PaymentGatewayError("payment_mismatch", why, retryable=False)


def _check_refund(instance: OrderInstance, payment: Payment, undone: _Undone, unclear: int) -> None:
    """Raises `PaymentGatewayError`, not retryable, if a person has to look before the rest of the payment is given back."""
    if undone.refunded + payment.kept > _due(instance):
        why = ("refund_over_charge", "the gateway would have us give back more than the order's amount")
    elif unclear >= MOST_UNCLEAR_REFUNDS:
        why = ("refund_unclear", f"the gateway gave no clear answer to {unclear} refunds, and may have paid them")
    else:
        return
    raise PaymentGatewayError(*why, retryable=False)


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


def money_moved(instance: OrderInstance) -> tuple[Decimal, Decimal, Decimal]:
    """(charged, refunded, at risk) by the journal: at risk is what may have been charged and is not known to be back."""
    entry = instance.journal.get(STEP)
    if entry is None:
        return Decimal(0), Decimal(0), Decimal(0)
    undone, done, error = entry.undo_result or {}, entry.result or {}, entry.undo_error or {}
    found = undone or error
    refunded = Decimal(found.get("refunded_amount", 0))
    charged = max(Decimal(done.get("amount_charged", 0)), Decimal(found.get("amount_charged", 0)))
    if not entry.undo_due or entry.undo_status != "failed":
        return charged, refunded, Decimal(0)
    at_risk = error.get("amount_at_risk") or done.get("amount_charged") or instance.payload.total_amount
    return charged, refunded, Decimal(at_risk)


def given_by_hand(instance: OrderInstance) -> Decimal:
    """What a person says to have given back past the gateway."""
    entry = instance.journal.get(STEP)
    return Decimal((entry.undo_result or {}).get("refunded_by_hand", 0)) if entry else Decimal(0)


def _currency(instance: OrderInstance) -> str:
    return str(instance.content.get("currency", "USD"))
