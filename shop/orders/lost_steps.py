"""Steps that orders have begun and the database does not know, because it was restored to an earlier time.

An open order gets such a step into its journal at once; one that is unknown when it is sent again, and one
that ended uncompleted when it is tried again. Its run then looks up what became of the step, as after a
crash, instead of doing it a second time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, text

from saga import manual
from saga.database import Tx
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS

_STATES = text(
    """
    SELECT i.id, o.id IS NOT NULL AS is_known, o.outcome,
        EXISTS (SELECT 1 FROM order_step s WHERE s.order_id = i.id AND s.step = :step) AS has_step
    FROM unnest(CAST(:ids AS text[])) AS i(id) LEFT JOIN customer_order o ON o.id = i.id
    """
)
_NEWEST = text("SELECT greatest(max(submitted_at), max(finished_at)) FROM customer_order")
_NOTE = text(
    "INSERT INTO lost_step (order_id, step) SELECT id, :step FROM unnest(CAST(:ids AS text[])) AS i(id) "
    "ON CONFLICT DO NOTHING"
)
_OF_ORDERS = text("SELECT order_id, step FROM lost_step WHERE order_id = ANY(CAST(:ids AS text[]))")


async def newest(tx: Tx) -> datetime | None:
    """Returns the time of the newest trace of an order in the database; None if there is none."""
    found: datetime | None = (await tx.execute(_NEWEST)).scalar_one()
    return found


async def note(tx: Tx, order_ids: Collection[str], step: str) -> tuple[set[str], set[str]]:
    """Notes that these orders have begun the step. Returns the orders that are unknown, and the open ones
    whose journal lacked it."""
    rows = (await tx.execute(_STATES, {"ids": list(order_ids), "step": step})).all()
    unknown = {row.id for row in rows if not row.is_known}
    lacking = {row.id for row in rows if row.is_known and row.outcome is None and not row.has_step}
    retryable = {row.id for row in rows if row.outcome is not None and row.outcome != Outcome.COMPLETED}
    if noted := sorted(unknown | retryable):
        await tx.execute(_NOTE, {"ids": noted, "step": step})
    if lacking:
        await tx.run_sync(manual.add_begun_step, ORDERS, sorted(lacking), step)
    return unknown, lacking


def add_to_journals(connection: Connection, order_ids: Collection[str]) -> None:
    """Adds the lost steps of these orders, which are new or begin again, to their journals."""
    steps = defaultdict[str, list[str]](list)
    for row in connection.execute(_OF_ORDERS, {"ids": list(order_ids)}):
        steps[row.step].append(row.order_id)
    for step, ids in steps.items():
        manual.add_begun_step(connection, ORDERS, sorted(ids), step)
