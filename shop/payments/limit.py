"""Limit of simultaneous calls to the payment gateway."""

from __future__ import annotations

from saga.limit import Limit
from shop.settings import settings

PAYMENT_GATEWAY = Limit(
    "payment-gateway",
    most=lambda: settings().payments.concurrency,
    total=lambda: settings().payments.calls,
)
