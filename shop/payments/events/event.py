"""Payment event: what is stored of a gateway's webhook event, enough to deduplicate it and to know what to
look up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

DISPUTE = "charge.dispute."
"""Prefix of the event types about disputes."""
DECIDING = ("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled")
"""Event types after which an order that waits for its customer can resume."""
HARMLESS = (
    "payment_intent.created",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
"""Event types that report no movement of money."""


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """A payment event. It has no amounts and no customer data: the handler asks the gateway."""

    id: str
    type: str
    happened_at: datetime
    payment_id: str | None
    order_id: str | None
    """The order of the payment, if the event says it."""
    installation: str | None = None
    """The installation that created the payment, if the event says it."""
    dispute: dict[str, Any] | None = None
    """The dispute's data, used if the dispute cannot be looked up at the gateway."""

    @property
    def is_dispute(self) -> bool:
        return self.type.startswith(DISPUTE)
