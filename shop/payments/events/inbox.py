"""Inbox of payment events: stores each event before its delivery is acknowledged, deduplicates it, and has it
handled at least once.

The content of an event moves no money and decides nothing. Therefore sequence and repetition do not matter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json, transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.orders.changes import end_postponement
from shop.orders.store import ORDERS
from shop.payments import disputes
from shop.payments.charge import STEP
from shop.payments.disputes import Dispute
from shop.runtime import turns

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


_STORING, _CLAIMING, _ENDING = (
    failpoint(f"the commit of {what}")
    for what in ("storing a payment event", "claiming payment events", "a payment event's end")
)
JOB = "handle_payment_events"
"""The periodic job that handles the stored events; see `shop.runtime.turns`."""
_HANDLING_SECONDS = 60
"""Time after which another process may claim an event that is being handled. If both handle it, that is
harmless."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10, 3600
"""The first and the longest pause between attempts, in seconds."""
_DAYS = 30
"""Retention of handled events, in days."""

# Stores the order's id only if the payment is known to be this installation's: another shop that uses the
# same gateway account may have an order with the same id.
_INSERT = text(
    """
    INSERT INTO payment_event (id, type, happened_at, order_id, payment_id, dispute)
    SELECT :id, :type, :happened_at,
        CASE WHEN EXISTS (SELECT 1 FROM installation i WHERE i.id = :installation)
               OR EXISTS (SELECT 1 FROM order_step s WHERE s.order_id = :order_id AND s.step = :step
                          AND s.notes ->> 'payment_id' = :payment_id)
        THEN CAST(:order_id AS text) END,
        :payment_id, CAST(:dispute AS jsonb)
    ON CONFLICT (id) DO NOTHING RETURNING id
    """
)
_IS_ITS_PAYMENT = text(
    "SELECT EXISTS (SELECT 1 FROM order_step WHERE order_id = :order_id AND step = :step "
    "AND notes ->> 'payment_id' = :payment_id)"
)
# Ends events that report what our tables already have from the gateway, without a lookup. That is most
# events.
_IN_ORDER = text(
    """
    UPDATE payment_event e SET handled_at = now(), done = 'in order' FROM customer_order o, order_step s
    WHERE e.handled_at IS NULL AND (CAST(:id AS text) IS NULL OR e.id = :id)
      AND o.id = e.order_id AND o.outcome IS NOT NULL
      AND s.order_id = o.id AND s.step = :step AND s.notes ->> 'payment_id' = e.payment_id
      AND (e.type = ANY(CAST(:harmless AS text[]))
           OR (e.type = 'payment_intent.succeeded' AND o.outcome = 'completed' AND o.amount_charged > 0)
           OR (e.type IN ('payment_intent.succeeded', 'charge.refunded')
               AND o.outcome IN ('rejected', 'out_of_stock', 'compensated')
               AND o.amount_charged > 0 AND o.amount_refunded = o.amount_charged))
    """
)
# An event about an open order waits until the order has ended. Disputes do not wait.
_DUE = f"""
    e.handled_at IS NULL AND e.next_attempt_at <= now() AND (e.type LIKE '{DISPUTE}%'
        OR NOT EXISTS (SELECT 1 FROM customer_order o WHERE o.id = e.order_id AND o.outcome IS NULL))
"""  # noqa: S608  (a constant)
_IS_DUE = text(f"SELECT EXISTS (SELECT 1 FROM payment_event e WHERE e.id = :id AND {_DUE})")  # noqa: S608
_CLAIM = text(
    f"""
    WITH mine AS (
        SELECT e.id FROM payment_event e WHERE {_DUE}
        ORDER BY e.next_attempt_at LIMIT :most FOR UPDATE OF e SKIP LOCKED
    )
    UPDATE payment_event e
    SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :seconds)
    FROM mine WHERE e.id = mine.id
    RETURNING e.id, e.type, e.happened_at, e.payment_id, e.order_id, e.dispute
    """  # noqa: S608
)
_END = text(
    "UPDATE payment_event SET handled_at = now(), done = :done, error = NULL, "
    "order_id = coalesce(:order_id, order_id) WHERE id = :id AND handled_at IS NULL"
)
_POSTPONE = text(
    "UPDATE payment_event SET next_attempt_at = now(), order_id = :order_id "
    "WHERE id = :id AND handled_at IS NULL"
)
_LATER = text(
    "UPDATE payment_event SET error = :error, next_attempt_at = now() "
    "+ make_interval(secs => least(:longest, :first * power(2, least(attempts, 30) - 1))) "
    "WHERE id = :id AND handled_at IS NULL"
)
_FORGET = text("DELETE FROM payment_event WHERE handled_at < now() - make_interval(days => :days)")


@dataclass(frozen=True, slots=True)
class Stored:
    new: bool
    """Whether the event was not stored before."""
    woke: bool = False
    """Whether an order that waited for this event resumes now."""
    due: bool = False
    """Whether the event has to be handled now."""


async def store(event: PaymentEvent) -> Stored:
    """Stores the event, and resumes an order that waits for it.
    Once this returns, the event cannot be lost."""
    async with transaction(_STORING) as tx:
        dispute = as_json(event.dispute) if event.dispute else None
        values = {**asdict(event), "dispute": dispute, "step": STEP}
        if (await tx.execute(_INSERT, values)).one_or_none() is None:
            return Stored(new=False)
        woke = event.type in DECIDING and await _wake(tx, event)
        await tx.execute(_IN_ORDER, {"id": event.id, "step": STEP, "harmless": list(HARMLESS)})
        if due := bool((await tx.execute(_IS_DUE, {"id": event.id})).scalar()):
            await turns.make_due(tx, JOB)
        return Stored(new=True, woke=woke, due=due)


async def _wake(tx: Tx, event: PaymentEvent) -> bool:
    payment = {"order_id": event.order_id, "payment_id": event.payment_id, "step": STEP}
    if event.order_id is None or not (await tx.execute(_IS_ITS_PAYMENT, payment)).scalar():
        return False
    # An order that a worker holds is not changed: that worker looks up the payment itself.
    if not await tx.run_sync(end_postponement, event.order_id):
        return False
    await tx.execute(notification(ORDERS, WAITING))
    return True


async def claim(*, most: int) -> list[PaymentEvent]:
    """Claims up to `most` events that are due. If the process dies, another can claim them after a minute."""
    async with transaction(_CLAIMING) as tx:
        await tx.execute(_FORGET, {"days": _DAYS})
        await tx.execute(_IN_ORDER, {"id": None, "step": STEP, "harmless": list(HARMLESS)})
        rows = (await tx.execute(_CLAIM, {"most": most, "seconds": _HANDLING_SECONDS})).all()
    return [
        PaymentEvent(row.id, row.type, row.happened_at, row.payment_id, row.order_id, dispute=row.dispute)
        for row in rows
    ]


async def end(
    event: PaymentEvent,
    done: str,
    *,
    order_id: str | None = None,
    dispute: tuple[Dispute, datetime] | None = None,
) -> None:
    """Records that the event is handled. `dispute`: its state and time, for the review queue."""
    async with transaction(_ENDING) as tx:
        if dispute is not None:
            await disputes.put(tx, dispute[0], order_id, dispute[1])
        await tx.execute(_END, {"id": event.id, "done": done, "order_id": order_id})


async def postpone(event: PaymentEvent, order_id: str) -> None:
    """Records the event's order, which is still open: the event is handled once the order has ended."""
    async with transaction(_ENDING) as tx:
        await tx.execute(_POSTPONE, {"id": event.id, "order_id": order_id})


async def try_later(event: PaymentEvent, error: str) -> None:
    """Schedules the next attempt after a failure, with a pause that doubles each time up to an hour."""
    async with transaction(_ENDING) as tx:
        await tx.execute(
            _LATER, {"id": event.id, "error": error, "first": _FIRST_PAUSE, "longest": _LONGEST_PAUSE}
        )
