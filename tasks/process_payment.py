"""Step 3: take the money. Undone by giving back what was really taken."""

from __future__ import annotations

from shop.payments.charge import PaymentResult, RefundResult, charge, refund
from shop.payments.gateways import gateway
from shop.under_way import OrderUnderWay
from tasks import gateway_health  # noqa: F401  (tells of a gateway that is away)
from tasks.limits import PAYMENT_GATEWAY
from tasks.step import outside_step, outside_undo


@outside_step(limit=PAYMENT_GATEWAY)
async def process_payment(order: OrderUnderWay) -> PaymentResult:
    """Charges the order once: create, journal the payment's id, confirm by it.

    Raises `PaymentRefused` (nothing to charge), `NoDeliveryAddress`, `PaymentDeclined`, and, retryable, `PaymentGatewayTimeout` and
    `PaymentGatewayError`.
    """
    return await charge(order, gateway())


@outside_undo(limit=PAYMENT_GATEWAY)
async def refund_payment(order: OrderUnderWay) -> RefundResult:
    """Finds the order's payments at the gateway, refunds what was charged, cancels what was only created.

    Raises `RefundRefused` when the gateway will not: then a person has to.
    """
    return await refund(order, gateway())
