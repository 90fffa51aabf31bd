"""States and outcomes of orders, the transitions between them, and the models that report them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, Field

from saga.outcome import Compensation
from shop.payments.errors import PaymentAwaited


class Outcome(StrEnum):
    """The five outcomes."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """Not valid; no step has an effect."""
    OUT_OF_STOCK = "out_of_stock"
    COMPENSATED = "compensated"
    """A step failed, and every completed step was compensated."""
    NEEDS_ATTENTION = "needs_attention"
    """A compensation failed: a person must act."""


class StepTiming(BaseModel, frozen=True):
    """Duration of a step, from its first beginning to its last end, retries included."""

    step: str
    status: str
    attempts: int
    began_at: datetime
    seconds: float | None


class OrderOutcome(BaseModel, frozen=True):
    """An order's outcome, or its progress (`outcome` is None while it is in progress)."""

    order_id: str
    outcome: Outcome | None
    failing_step: str | None = None
    reasons: list[str] = Field(default_factory=list)
    undone: list[Compensation] = Field(default_factory=list)
    currency: str = "USD"
    amount_charged: Decimal = Decimal(0)
    amount_refunded: Decimal = Decimal(0)
    amount_at_risk: Decimal = Decimal(0)
    amount_elsewhere: Decimal = Decimal(0)
    """What others have taken for the order, or will collect."""
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    """From submission to outcome."""
    timings: list[StepTiming] = Field(default_factory=list)
    takeovers: int = 0
    """How often another worker took it over."""
    flow_run_id: str | None = None
    try_number: int = 1
    """The number of its current try. Amounts are those of all tries; the rest is about the current one."""
    waits_for: str | None = None
    """While it is postponed: the code of what it waits for."""

    @property
    def awaits_money(self) -> bool:
        """Whether it waits for a transfer, which may take days."""
        return self.waits_for == PaymentAwaited.code


class Receipt(BaseModel, frozen=True):
    """The result of `submit_orders` for one order."""

    order_id: str | None
    status: str
    """`accepted`, `known` (the same order was submitted before) or `refused` (not stored; see `reasons`)."""
    reasons: list[str] = Field(default_factory=list)
    """Why it was refused; for a known order, why it did not complete."""
    outcome: Outcome | None = None
    """The outcome of a known order. Submitting it again does not change it."""
    how_to_retry: str | None = None
    """For a known order that ended uncompleted and can be tried again: how."""
    ignored: list[str] = Field(default_factory=list)
    """The places of fields that an order does not have, and that were not stored."""


class OrderState(StrEnum):
    """The state of an order without an outcome."""

    WAITING = "waiting"
    """Stored; no worker has it. Any worker may claim it."""
    CLAIMED = "claimed"
    """A worker runs its steps, under a lease."""
    SHIPPED = "shipped"
    """Claimed and past the pivot: it only goes forward."""
    COMPENSATING = "compensating"
    """Claimed, and its failure is recorded: compensations run, last begun first."""


State = OrderState | Outcome


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state."""

    source: State | None
    """None: the order does not exist yet."""
    target: State
    reason: str
    step: str | None = None
    """The step that causes it, if it is always the same one."""


_WAITING, _CLAIMED, _SHIPPED, _COMPENSATING = OrderState
_HELD = (_CLAIMED, _SHIPPED, _COMPENSATING)
TRANSITIONS = (
    Transition(None, _WAITING, "submitted"),
    Transition(None, _CLAIMED, "submitted by a run of its own"),
    *(Transition(_WAITING, state, "claimed by a worker") for state in _HELD),
    Transition(_CLAIMED, _SHIPPED, "the carrier accepts the parcel"),
    Transition(_CLAIMED, _COMPENSATING, "a step fails, or the order is cancelled"),
    Transition(_SHIPPED, _COMPENSATING, "a person sends it back"),
    Transition(_CLAIMED, Outcome.REJECTED, "not valid", "validate_order"),
    Transition(_CLAIMED, Outcome.OUT_OF_STOCK, "out of stock", "check_inventory"),
    Transition(_CLAIMED, Outcome.COMPENSATED, "nothing to compensate"),
    Transition(_SHIPPED, Outcome.COMPLETED, "every step is done"),
    Transition(_COMPENSATING, Outcome.COMPENSATED, "every compensation is done"),
    Transition(_COMPENSATING, Outcome.OUT_OF_STOCK, "out of stock at the inventory service"),
    Transition(_COMPENSATING, Outcome.NEEDS_ATTENTION, "a compensation fails"),
    *(Transition(state, _WAITING, "postponed, or released by its worker") for state in _HELD),
    Transition(Outcome.COMPLETED, _WAITING, "a person sends it back"),
    Transition(Outcome.NEEDS_ATTENTION, _WAITING, "retried, or resolved by a person"),
    *(
        Transition(outcome, _WAITING, "tried again")
        for outcome in (Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED)
    ),
    Transition(_WAITING, Outcome.NEEDS_ATTENTION, "a person puts it on hold"),
    *(
        Transition(outcome, Outcome.NEEDS_ATTENTION, "its refund did not arrive")
        for outcome in (Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED)
    ),
)
