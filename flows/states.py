"""An order's outcome as a Prefect state, so that the UI's list of runs shows it."""

from __future__ import annotations

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from shop.orders.outcomes import OrderOutcome, Outcome
from shop.values.money import show

NAMES = {
    Outcome.COMPLETED: "Completed",
    Outcome.REJECTED: "Rejected",
    Outcome.OUT_OF_STOCK: "OutOfStock",
    Outcome.COMPENSATED: "Compensated",
    Outcome.NEEDS_ATTENTION: "NeedsAttention",
}


def state_of(known: OrderOutcome) -> State[OrderOutcome]:
    """Returns a completed state with the outcome's name for an order that was handled as designed, or that
    waits for a transfer, and a failed one for an order that needs a person."""
    if known.outcome is None and known.awaits_money:
        message = f"{known.order_id} waits for its money; consumers go on with it when that is recorded"
        return Completed(name="AwaitingPayment", message=message, data=known)
    if known.outcome is None:
        raise ValueError(f"order {known.order_id} has no outcome yet")
    make = Failed if known.outcome is Outcome.NEEDS_ATTENTION else Completed
    return make(name=NAMES[known.outcome], message=_message(known), data=known)


def _message(known: OrderOutcome) -> str:
    if known.outcome is Outcome.COMPLETED:
        return f"{known.order_id}: {show(known.amount_charged, known.currency)} charged"
    parts = [f"{known.order_id}: {known.failing_step}: {'; '.join(known.reasons)}"]
    parts += [f"{undone.compensation}: {undone.status}" for undone in known.undone]
    if known.amount_at_risk:
        parts.append(f"{show(known.amount_at_risk, known.currency)} at risk")
    return " | ".join(parts)[:1000]
