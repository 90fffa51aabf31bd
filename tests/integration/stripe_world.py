"""A shop that is paid through Stripe, checked against what localstripe has."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.integration.world import World, an_order
from tests.localstripe_server import LocalStripe

ASKS = "4000002500003155"
"""Its bank asks its holder."""


@dataclass(frozen=True)
class StripeWorld(World):
    """As with the sandbox, but the ledger is localstripe's."""

    stripe: LocalStripe

    def ledger(self, order_id: str) -> list[dict[str, Any]]:
        return self.stripe.ledger(order_id)

    def pay(self, order_id: str, amount: Decimal, *, confirmed: bool = True) -> str:
        intent = self.stripe.post(
            "/v1/payment_intents",
            amount=str(int(amount * 100)),
            currency="usd",
            payment_method="pm_card_visa",
            confirm=str(confirmed).lower(),
            **{"metadata[checkout]": order_id},
        )
        return str(intent["id"])

    def asking(self, order_id: str, **more: Any) -> dict[str, Any]:
        """An order paid by a card whose bank asks its holder."""
        return paid_by(self.stripe.card(ASKS), an_order(order_id, **more))


def paid_by(token: str, order: dict[str, Any]) -> dict[str, Any]:
    """The order, with a PaymentMethod of Stripe."""
    return {**order, "payment_info": {**order["payment_info"], "token": token}}
