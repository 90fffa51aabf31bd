"""Where an order ends, and what is told about it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from saga.outcome import Compensation


class Outcome(StrEnum):
    """The five ends of an order."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """Not valid; nothing was begun."""
    OUT_OF_STOCK = "out_of_stock"
    COMPENSATED = "compensated"
    """A step failed, and all that had been done was undone."""
    NEEDS_ATTENTION = "needs_attention"
    """A compensation could not be done: a person must act."""


class StepTiming(BaseModel):
    """How long a step took, from its first beginning to its last end, retries included."""

    model_config = ConfigDict(frozen=True)

    step: str
    status: str
    attempts: int
    began_at: datetime
    seconds: float | None


class OrderOutcome(BaseModel):
    """Where one order ended, or how far it is (`outcome` is None while it is under way)."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    outcome: Outcome | None
    failing_step: str | None = None
    reasons: list[str] = Field(default_factory=list)
    undone: list[Compensation] = Field(default_factory=list)
    currency: str = "USD"
    amount_charged: Decimal = Decimal(0)
    amount_refunded: Decimal = Decimal(0)
    amount_at_risk: Decimal = Decimal(0)
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    """From submission to outcome."""
    timings: list[StepTiming] = Field(default_factory=list)
    takeovers: int = 0
    """How often another worker had to take it over."""
    flow_run_id: str | None = None


class Receipt(BaseModel):
    """What `submit_orders` says of one order."""

    model_config = ConfigDict(frozen=True)

    order_id: str | None
    status: str
    """`accepted`, `known` (the same order came before) or `refused` (not stored; see `reasons`)."""
    reasons: list[str] = Field(default_factory=list)
    """Why it was refused; of a known order, why it did not complete."""
    outcome: Outcome | None = None
    """Of a known order that has ended already: it stays so, whatever is sent again."""
