"""The results of charging and refunding an order."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel


class PaymentResult(BaseModel):
    """The result of `process_payment`."""

    payment_status: Literal["charged", "paid_already", "collect", "not_needed"] = "charged"
    """`collect`: shipped first; the money is collected on delivery or transferred later."""
    payment_id: str | None = None
    """The gateway's id; None if the gateway has no payment of the order, as what follows."""
    transaction_id: str | None = None
    amount_charged: Decimal = Decimal(0)
    """By the payment gateway."""
    amount_elsewhere: Decimal = Decimal(0)
    """What others have taken for the order, or will collect: it never went through the gateway."""
    currency: str
    gateway_fee: Decimal = Decimal(0)
    payment_method: str | None = None
    charged_at: datetime | None = None
    why: str | None = None
    """Why nothing was charged."""


class RefundResult(BaseModel):
    """The result of `refund_payment`. `amount_charged` is what had been charged according to the gateway."""

    compensation_status: Literal["success", "cancelled", "no_payment_to_refund"]
    refund_id: str | None = None
    refunded_amount: Decimal = Decimal(0)
    amount_charged: Decimal = Decimal(0)
    currency: str
    original_payment_id: str | None = None
    refund_timestamp: datetime | None = None
