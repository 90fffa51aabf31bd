"""The states of an order and the transitions between them. The diagrams are drawn from this table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shop.orders.outcomes import Outcome


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
