"""The state of an order's payment, for a page on which its customer answers the bank (3-D Secure).

The gateway's client secret is read when it is asked for. It is stored and logged nowhere: with it, and the
shop's publishable key, anybody could answer for the customer.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import Field
from sqlalchemy import text

from saga.database import transaction
from shop.payments.charge import STEP
from shop.payments.errors import PaymentGatewayTimeout
from shop.payments.ownership import OwnPayments
from shop.values.frozen import Frozen
from shop.values.money import exact

_PAYMENT = text(
    """
    SELECT o.currency, o.content ->> 'currency' AS ordered_in, o.amount_charged, o.amount_refunded, o.outcome,
        o.failure IS NOT NULL OR o.cancel_requested_at IS NOT NULL AS undone,
        s.status, s.undo_status, s.notes ->> 'payment_id' AS payment_id,
        s.result ->> 'amount_charged' AS amount
    FROM customer_order o LEFT JOIN order_step s ON s.order_id = o.id AND s.step = :step WHERE o.id = :id
    """
)


class PaymentState(StrEnum):
    """The state of an order's payment, as our records have it."""

    NOT_BEGUN = "not_begun"
    UNDER_WAY = "under_way"
    NEEDS_CUSTOMER = "needs_customer"
    """The bank waits for the customer: `client_secret` shows its question."""
    CHARGED = "charged"
    FAILED = "failed"
    """Declined, or another failure: nothing is charged."""
    UNDONE = "undone"
    """The order is being, or was, compensated: what was charged is refunded."""


class OrderPayment(Frozen):
    """An order's payment. Amounts are exact text in `currency`."""

    order_id: str
    status: PaymentState
    payment_id: str | None = Field(default=None, description="the gateway's id")
    client_secret: str | None = Field(
        default=None,
        repr=False,
        description="while the bank waits for the customer: for Stripe.js on the shop's page. Give it to "
        "this order's customer only; do not store or log it",
    )
    currency: str
    amount_charged: Decimal
    amount_refunded: Decimal


async def read_payment(order_id: str, gateway: OwnPayments, *, seconds: float) -> OrderPayment | None:
    """Returns the order's payment; None if there is no such order. Asks the gateway, for up to `seconds`,
    only while the payment may wait for its customer. Raises `PaymentError`."""
    async with transaction() as tx:
        row = (await tx.execute(_PAYMENT, {"id": order_id, "step": STEP})).mappings().one_or_none()
    if row is None:
        return None
    state, secret = _state(row), None
    if state is PaymentState.UNDER_WAY and row["payment_id"] is not None:
        try:
            async with asyncio.timeout(seconds):
                secret = await gateway.client_secret(row["payment_id"])
        except TimeoutError:
            raise PaymentGatewayTimeout(f"the gateway gave no answer within {seconds:g} s") from None
        state = PaymentState.NEEDS_CUSTOMER if secret else state
    # The order's own columns are written when it ends.
    currency = row["currency"] if row["outcome"] else (row["ordered_in"] or row["currency"])
    charged = row["amount_charged"]
    if row["outcome"] is None and row["status"] == "done":
        charged = Decimal(row["amount"] or 0)
    return OrderPayment(
        order_id=order_id,
        status=state,
        payment_id=row["payment_id"],
        client_secret=secret,
        currency=currency,
        amount_charged=exact(charged, currency),
        amount_refunded=exact(row["amount_refunded"], currency),
    )


def _state(row: Any) -> PaymentState:
    ending = row["undone"] or row["outcome"] is not None
    match row["status"]:
        case None:
            return PaymentState.NOT_BEGUN
        case "done":
            return PaymentState.UNDONE if row["undone"] or row["undo_status"] else PaymentState.CHARGED
        case "failed" if ending:
            return PaymentState.FAILED
    # Also an attempt that has failed, if another one follows, such as after the customer's answer.
    return PaymentState.UNDONE if ending else PaymentState.UNDER_WAY
