"""A customer's bank takes a charge back, and the shop may answer with evidence until a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

CLOSED = frozenset({"won", "lost", "warning_closed", "prevented"})
"""The bank has decided; in any other state it may still be answered or decided."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as the gateway tells it."""

    id: str
    payment_id: str | None
    amount: Decimal
    currency: str
    reason: str
    """The gateway's own word, as is `status`."""
    status: str
    opened_at: datetime
    evidence_due_by: datetime | None
