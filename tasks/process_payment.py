"""Step 3: charges the customer. Its compensation refunds what was really charged."""

from __future__ import annotations

from saga.prefect.steps import external_compensation, external_step
from shop.orders.order import OrderInstance
from shop.payments.charge import charge, refund
from shop.payments.gateways import PAYMENT_GATEWAY, gateway
from shop.payments.results import PaymentResult, RefundResult
from tasks import external_health  # noqa: F401  (registers the reports about the gateway)


@external_step(limit=PAYMENT_GATEWAY)
async def process_payment(order: OrderInstance) -> PaymentResult:
    """Charges the order once: create, journal the payment's id, confirm by it.

    Raises `PaymentRefused` (nothing to charge), `NoDeliveryAddress`, `PaymentDeclined`, and, retryable,
    `PaymentGatewayTimeout` and `PaymentGatewayError`.
    """
    return await charge(order, gateway())


@external_compensation(limit=PAYMENT_GATEWAY)
async def refund_payment(order: OrderInstance) -> RefundResult:
    """Finds the order's payments at the gateway, refunds what was charged, cancels what was only created.

    Raises `RefundRefused` if the gateway refuses: then a person has to act.
    """
    return await refund(order, gateway())
