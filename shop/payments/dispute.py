"""Dispute: a customer's bank takes a charge back. The shop can answer with evidence until a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

CLOSED = frozenset({"won", "lost", "warning_closed", "prevented"})
"""States in which the bank has decided. In any other the dispute can still be answered or decided."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as the gateway reports it."""

    id: str
    payment_id: str | None
    amount: Decimal
    currency: str
    reason: str
    """The gateway's own term, like `status`."""
    status: str
    opened_at: datetime
    evidence_due_by: datetime | None
