"""Asking for an order to be cancelled. The request is one transaction; whoever works on the order next, or now, sees it.

Before the pivot the order is undone like one that failed. After it, it comes back: the money is refunded, the pieces are on the shelf
again, the customer is told. Shipping (`shop.shipping.fulfilment`) and this write the same row, so that an order is never both shipped and
cancelled before it was shipped.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING
from shop.orders.outcomes import Outcome
from shop.review import typed_text
from shop.review.errors import OrderUnknown
from shop.settings import settings

_LOOK = text("SELECT outcome, failure IS NOT NULL AS failed, cancel_requested_at FROM customer_order WHERE id = :id FOR UPDATE")
# A completed order is open again, and nobody's; one that a worker has in hand stays in its hand.
_ASK = text(
    """
    UPDATE customer_order
    SET cancel_requested_at = clock_timestamp(), cancel_reason = :reason, cancel_requested_by = :by, not_before = NULL,
        status = CASE WHEN outcome IS NULL THEN status ELSE 'shipped' END, outcome = NULL, finished_at = NULL
    WHERE id = :id
    """
)
# An order that is shipped goes forward: sending it back is a decision of its own.
_WITHDRAW = text(
    """
    UPDATE customer_order
    SET cancel_requested_at = clock_timestamp(), cancel_reason = :reason, cancel_requested_by = :by, not_before = NULL
    WHERE (id = :id OR flow_run_id = :run) AND outcome IS NULL AND failure IS NULL AND cancel_requested_at IS NULL AND status <> 'shipped'
    RETURNING id
    """
)
_NOTE = text("""INSERT INTO desk_entry (order_id, action, "by", started_by, reason) VALUES (:id, 'cancel', :by, :started_by, :reason)""")
_ASKING = failpoint("the commit of asking to cancel")
_WAKE = text("SELECT pg_notify(:channel, '')")


class Asked(StrEnum):
    """What became of a request."""

    ASKED = "asked"
    """It is written down; the order is going to be undone."""
    KNOWN = "known"
    """Somebody had asked before, or it is being undone for another reason: nothing more was done."""
    ENDED = "ended"
    """There is nothing to undo (any more)."""


async def ask_to_cancel(order_id: str, *, reason: str, requested_by: str, started_by: str | None = None) -> Asked:
    """Writes the request down, once; from then on the order is undone, whatever dies. `requested_by` is what somebody typed,
    `started_by` what the system knows of who it is. Raises `OrderUnknown` and `ResolutionIncomplete`."""
    reason, requested_by = _words(reason, requested_by)
    async with transaction(_ASKING) as tx:
        return await tx.run_sync(_ask, order_id, reason, requested_by, started_by)


def ask_to_cancel_sync(order_id: str, *, reason: str, requested_by: str, started_by: str | None = None) -> Asked:
    """The same, for callers without an event loop."""
    reason, requested_by = _words(reason, requested_by)
    with sync_engine(settings().database_url).begin() as connection:
        return _ask(connection, order_id, reason, requested_by, started_by)


async def withdraw(
    *, order_id: str | None, flow_run_id: str | None, reason: str, requested_by: str, started_by: str | None = None
) -> list[str]:
    """Asks for those orders to be cancelled that are not shipped yet: this one, and what that run has, or had last. Returns those that
    nobody had asked for, or begun to undo, before."""
    async with transaction(_ASKING) as tx:
        asked = {"reason": reason, "by": requested_by, "started_by": typed_text.known(started_by)}
        found = list((await tx.execute(_WITHDRAW, {"id": order_id, "run": flow_run_id, **asked})).scalars())
        for each in found:
            await tx.execute(_NOTE, {"id": each, **asked})
        if found:
            await tx.execute(_WAKE, {"channel": WAITING})
        return found


def _words(reason: str, requested_by: str) -> tuple[str, str]:
    return (
        typed_text.required("reason", reason, "say why the order is cancelled; it is kept with the order"),
        typed_text.required("requested_by", requested_by, "say who asks for it; it is kept with the order"),
    )


def _ask(connection: Connection, order_id: str, reason: str, requested_by: str, started_by: str | None) -> Asked:
    row = connection.execute(_LOOK, {"id": order_id}).one_or_none()
    if row is None:
        raise OrderUnknown(order_id)
    if row.outcome not in {None, Outcome.COMPLETED}:
        return Asked.ENDED
    if row.failed or row.cancel_requested_at is not None:
        return Asked.KNOWN
    asked = {"id": order_id, "reason": reason, "by": requested_by, "started_by": typed_text.known(started_by)}
    connection.execute(_ASK, asked)
    connection.execute(_NOTE, asked)
    connection.execute(_WAKE, {"channel": WAITING})
    return Asked.ASKED
