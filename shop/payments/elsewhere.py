"""Money that others take for an order: it is paid before it comes, in whole or in part, or later by transfer
or on delivery.

Of what is paid already, the payment gateway may have the money: then its payment counts as the order's, and a
refund goes through it (`shop.payments.elsewhere`). All other money has to be given back by a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from sqlalchemy import text

from saga.clock import database_time
from saga.database import Tx, transaction
from saga.failpoints import failpoint
from shop.orders.order import OrderInstance, read_stored
from shop.orders.parts import ALREADY_PAID, BANK_TRANSFER, CASH_ON_DELIVERY
from shop.payments.errors import PaidOtherwise, PaymentAwaited, PaymentGatewayError, PaymentLapsed
from shop.payments.gateway import Payment, PaymentGateway
from shop.payments.results import PaymentResult
from shop.runtime.installation import installation_id
from shop.settings import settings
from shop.values.money import show

SUM = text(
    "SELECT coalesce(sum(amount), 0) FROM received_payment WHERE order_id = :id AND currency = :currency"
)


_SUMS = text(
    "SELECT order_id, sum(amount) AS amount FROM received_payment "
    "WHERE order_id = ANY(CAST(:ids AS text[])) GROUP BY order_id"
)


async def received_by_order(tx: Tx, order_ids: Sequence[str]) -> dict[str, Decimal]:
    """Returns what was received for those of the orders for which anything was."""
    rows = await tx.execute(_SUMS, {"ids": list(order_ids)})
    return {row.order_id: Decimal(row.amount) for row in rows}


async def received(order_id: str, currency: str) -> Decimal:
    async with transaction() as tx:
        return Decimal((await tx.execute(SUM, {"id": order_id, "currency": currency})).scalar_one())


UNKNOWN = frozenset({"no_such_payment", "resource_missing"})
"""The gateway's error codes for an id that it does not know."""
_ADOPT = text(
    "INSERT INTO adopted_payment (payment_id, order_id) VALUES (:payment_id, :order_id) "
    "ON CONFLICT DO NOTHING"
)
_OWNERS = text(
    "SELECT payment_id, order_id FROM adopted_payment WHERE payment_id = ANY(CAST(:ids AS text[]))"
)
_OF_ORDER = text("SELECT payment_id FROM adopted_payment WHERE order_id = :order_id ORDER BY payment_id")
_ADOPTING = failpoint("the commit of a payment's adoption")


async def adopt(order_id: str, reference: str, gateway: PaymentGateway) -> Payment | None:
    """Makes the payment with this id the order's, for good, and returns it. None if the gateway does not know
    it.

    Raises `PaidOtherwise` if it belongs to another order of this installation, or to another installation.
    """
    try:
        payment = await gateway.get(reference)
    except PaymentGatewayError as error:
        if error.retryable or error.error_code not in UNKNOWN:
            raise
        return None
    if payment.order_id == "" and payment.installation not in {None, await installation_id()}:
        raise PaidOtherwise("the payment by which the order says that it is paid is another shop's")
    if payment.order_id == "":
        async with transaction(_ADOPTING) as tx:
            await tx.execute(_ADOPT, {"payment_id": payment.id, "order_id": order_id})
        payment = await gateway.get(reference)
    if payment.order_id != order_id:
        raise PaidOtherwise("the payment by which the order says that it is paid is another order's")
    return payment


async def adopters(payment_ids: Sequence[str]) -> dict[str, str]:
    """Returns the orders' ids of those payments that were adopted, by the payment's id."""
    if not payment_ids:
        return {}
    async with transaction() as tx:
        rows = await tx.execute(_OWNERS, {"ids": list(payment_ids)})
        return {row.payment_id: row.order_id for row in rows}


async def adopted_by(order_id: str) -> list[str]:
    async with transaction() as tx:
        return list((await tx.execute(_OF_ORDER, {"order_id": order_id})).scalars())


_ASK_AGAIN_SECONDS = 3600.0
"""How long an order is postponed whose money has not come. A payment that is recorded wakes it."""
_NOTHING = Decimal(0)
_LONGEST, _MAX_DIGITS, _SMALLEST = 60, 12, Decimal("0.000001")
"""Bound an amount of an invalid order: in characters, in digits before the point, and its decimals."""


async def settle(instance: OrderInstance, gateway: PaymentGateway) -> PaymentResult | None:
    """Returns the result for an order of which nothing has to be charged; None if something has.

    Raises `PaidOtherwise` if the gateway contradicts the shop, and for a transfer that is awaited
    `PaymentAwaited` and, when it takes too long, `PaymentLapsed`.
    """
    order, info = instance.payload, instance.payload.payment_info
    if order.amount_due == 0:
        why = "part payments pay all of it" if order.part_payments else "the total is zero"
        return _result(instance, "not_needed", order.paid_in_part, why=why)
    method = info.method if info else None
    if method == ALREADY_PAID:
        return await _paid_already(instance, gateway)
    if method in {BANK_TRANSFER, CASH_ON_DELIVERY}:
        if method not in settings().payments.ship_before_payment:
            return await _await_money(instance)
        why = f"{show(order.amount_due, order.currency)} are to be collected"
        return _result(instance, "collect", order.total_amount, why=why)
    return None


def _result(
    instance: OrderInstance, status: Any, elsewhere: Decimal, *, why: str | None = None
) -> PaymentResult:
    order = instance.payload
    return PaymentResult(
        payment_status=status,
        amount_elsewhere=elsewhere,
        currency=order.currency,
        payment_method=order.payment_info.method if order.payment_info else None,
        why=why,
    )


async def _paid_already(instance: OrderInstance, gateway: PaymentGateway) -> PaymentResult:
    order = instance.payload
    payment = await payment_of(instance, gateway)
    if payment is None:
        return _result(
            instance, "paid_already", order.total_amount, why="paid already, and not by the gateway"
        )
    if payment.amount_refunded or (payment.kept, payment.currency) != (order.amount_due, order.currency):
        raise PaidOtherwise(
            f"the order says that {show(order.amount_due, order.currency)} are paid already, and the payment "
            f"gateway has {show(payment.kept, payment.currency)} of that payment"
        )
    return PaymentResult(
        payment_status="paid_already",
        payment_id=payment.id,
        transaction_id=payment.transaction_id,
        amount_charged=payment.amount,
        amount_elsewhere=order.paid_in_part,
        currency=payment.currency,
        gateway_fee=payment.fee,
        payment_method=ALREADY_PAID,
        charged_at=payment.charged_at,
        why="paid already",
    )


async def payment_of(instance: OrderInstance, gateway: PaymentGateway) -> Payment | None:
    """Returns the gateway's payment by which the order says that it is paid already, and makes it the
    order's; None if the gateway has no such payment. Raises `PaidOtherwise` if it is another order's."""
    payment_id = reference(instance.content)
    return await adopt(instance.id, payment_id, gateway) if payment_id is not None else None


def _method(content: Mapping[str, Any]) -> Any:
    """Returns the order's method of payment, of an order that may be invalid."""
    info = content.get("payment_info")
    return info.get("method") if isinstance(info, Mapping) else None


def reference(content: Mapping[str, Any]) -> str | None:
    """Returns the id of the payment by which the order says that it is paid already; None if it does not, or
    if the payment is not one of the configured gateway."""
    if _method(content) != ALREADY_PAID:
        return None
    info = content["payment_info"]
    given, provider = info.get("reference"), info.get("provider")
    ours = isinstance(given, str) and provider in {None, settings().payments.gateway}
    return given if ours else None


async def _await_money(instance: OrderInstance) -> PaymentResult:
    order = instance.payload
    came = await received(order.id, order.currency)
    if came >= order.amount_due:
        return _result(instance, "paid_already", order.total_amount, why="the money has been received")
    missing = show(order.amount_due - came, order.currency)
    days, since = settings().payments.transfer_days, instance.submitted_at
    if since is not None and (await database_time() - since).days >= days:
        raise PaymentLapsed("not_received", f"{missing} have not been received within {days} days")
    raise PaymentAwaited(f"{missing} have not been received yet", _ASK_AGAIN_SECONDS)


async def taken(instance: OrderInstance, adopted: Payment | None) -> Decimal:
    """Returns what others have taken for an order that fails, and a person has to give back. `adopted`: the
    gateway's payment by which it was paid already. Works for invalid orders, too."""
    content = instance.content
    came = await received(instance.id, str(content.get("currency")))
    return came + paid_before(content, whole=adopted is None)


def paid_before(content: Mapping[str, Any], *, whole: bool = True) -> Decimal:
    """Returns what others had taken when the order came, according to its content, which may be invalid.
    `whole`: includes the payment of an order that is paid already, besides its part payments. Zero, if it
    cannot be read."""
    already = _method(content) == ALREADY_PAID
    try:
        order = read_stored(content)
    except ValidationError:
        parts = content.get("part_payments")
        if already and whole:
            return _amount(content.get("total_amount"))
        listed = parts if isinstance(parts, list) else []
        amounts = [_amount(part.get("amount")) for part in listed if isinstance(part, Mapping)]
        return _amount(sum(amounts, _NOTHING))
    return _amount(order.total_amount if already and whole else order.paid_in_part)


def is_paid_before(content: Mapping[str, Any]) -> bool:
    """Returns whether others had taken money for the order when it came."""
    return bool(content.get("part_payments")) or _method(content) == ALREADY_PAID


def is_paid_later(content: Mapping[str, Any]) -> bool:
    """Returns whether the order's money comes by transfer or on delivery."""
    return _method(content) in (BANK_TRANSFER, CASH_ON_DELIVERY)


def _amount(value: Any) -> Decimal:
    """Returns the amount; zero if it is none of at most twelve digits before the point and six after it."""
    try:
        amount = Decimal(str(value)[:_LONGEST])
        usable = amount.is_finite() and amount > 0 and amount.adjusted() < _MAX_DIGITS
        return (amount if amount == amount.quantize(_SMALLEST) else _NOTHING) if usable else _NOTHING
    except ArithmeticError:
        return _NOTHING
