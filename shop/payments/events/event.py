"""What is kept of something that the gateway tells by itself: enough to know it again, and where to look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

DISPUTE = "charge.dispute."
"""How the types of events about disputes begin."""
DECIDING = ("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled")
"""After these an order that waits for its customer can go on."""
HARMLESS = (
    "payment_intent.created",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
"""Money has not moved."""


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """No amounts and no customer's data: whoever handles it asks the gateway."""

    id: str
    type: str
    happened_at: datetime
    payment_id: str | None
    order_id: str | None
    """Whose payment it is, as far as it is told."""
    installation: str | None = None
    """The installation that created the payment, as far as it is told."""
    dispute: dict[str, Any] | None = None
    """Of a dispute: what it is about, for when the gateway does not let us look at it."""

    @property
    def is_dispute(self) -> bool:
        return self.type.startswith(DISPUTE)
