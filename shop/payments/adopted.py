"""Payments at the gateway that this installation did not create, and that an order names as its own: it was
paid already, in the shop. They count as the order's by the shop's word."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from saga.database import transaction
from saga.failpoints import failpoint
from shop.payments.errors import PaidOtherwise, PaymentGatewayError
from shop.payments.gateway import Payment, PaymentGateway
from shop.runtime.installation import installation_id

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


async def owners(payment_ids: Sequence[str]) -> dict[str, str]:
    """Returns the orders' ids of those payments that were adopted, by the payment's id."""
    if not payment_ids:
        return {}
    async with transaction() as tx:
        rows = await tx.execute(_OWNERS, {"ids": list(payment_ids)})
        return {row.payment_id: row.order_id for row in rows}


async def of_order(order_id: str) -> list[str]:
    """Returns the ids of the payments that the order has adopted."""
    async with transaction() as tx:
        return list((await tx.execute(_OF_ORDER, {"order_id": order_id})).scalars())
