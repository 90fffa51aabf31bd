"""Settings of payments, for any gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from saga.configuration import Seconds
from shop.orders.parts import BANK_TRANSFER, CASH_ON_DELIVERY
from shop.runtime.setting_groups import FromJson, Group, Minutes, Url, prefixed

_URLS = {"sandbox": "http://127.0.0.1:8420", "stripe": "https://api.stripe.com"}


class PaymentSettings(Group):
    """Payments"""

    model_config = prefixed("PAYMENT_")

    gateway: Literal["sandbox", "stripe"] = Field(default="sandbox", alias="PAYMENT_GATEWAY")
    """The payment gateway: the sandbox, which moves no real money, or Stripe."""
    gateway_url: Url | None = None
    """Address of the gateway. Default: `http://127.0.0.1:8420` for the sandbox (`make run` starts one),
    Stripe's own for `stripe`."""
    timeout_seconds: Seconds = 5
    """Timeout of one call to the gateway."""
    concurrency: int = Field(default=16, ge=1, le=500)
    """Limits the concurrent calls and connections of one process to the gateway."""
    calls: int = Field(default=64, ge=1, le=10_000)
    """Limits the concurrent calls of all workers together to the gateway. Processes that want more than there
    is get equal shares."""
    breaker_failures: int = Field(default=5, ge=1)
    """Consecutive failures of the gateway that open the circuit breaker."""
    breaker_seconds: Seconds = 10
    """How long the circuit breaker stays open before one call tries the gateway again."""
    customer_minutes: Minutes = 60
    """How long an order waits for a customer whose bank asks for confirmation (3-D Secure) before it is
    compensated."""

    ship_before_payment: Annotated[frozenset[str], FromJson] = frozenset({CASH_ON_DELIVERY})
    """Methods of payment whose orders are shipped first (JSON): `cash_on_delivery`, `bank_transfer`. Other
    orders that are paid by transfer or on delivery wait until the money is recorded (`order-saga paid`)."""
    transfer_days: int = Field(default=14, ge=1, le=365)
    """How many days an order waits for a transfer before it is compensated."""

    @field_validator("ship_before_payment")
    @classmethod
    def _methods(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := value - {BANK_TRANSFER, CASH_ON_DELIVERY}:
            raise ValueError(
                f"expected {BANK_TRANSFER} or {CASH_ON_DELIVERY}, not {', '.join(sorted(unknown))}"
            )
        return value

    @property
    def url(self) -> str:
        """The address of the payment gateway."""
        return self.gateway_url or _URLS[self.gateway]
