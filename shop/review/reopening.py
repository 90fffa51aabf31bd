"""Automatic retries of compensations: reopens the orders under manual review whose pause is over."""

from __future__ import annotations

from sqlalchemy import text

from saga import manual
from saga.database import Tx, transaction
from saga.failpoints import failpoint
from shop.orders.store import ORDERS

# Two statements: a person may have settled or held an order while its row was being locked.
_LOCK_DUE = text(
    """
    SELECT o.id FROM attention a JOIN customer_order o ON o.id = a.order_id
    WHERE a.resolved_at IS NULL AND a.next_retry_at <= now() AND o.outcome = 'needs_attention'
    ORDER BY a.next_retry_at LIMIT :most FOR UPDATE OF o SKIP LOCKED
    """
)
_ANY_DUE = text(
    "SELECT EXISTS (SELECT 1 FROM attention WHERE resolved_at IS NULL AND next_retry_at <= now())"
)
_STILL_DUE = text(
    """
    SELECT o.id FROM attention a JOIN customer_order o ON o.id = a.order_id
    WHERE o.id = ANY(CAST(:ids AS text[])) AND a.resolved_at IS NULL
      AND a.next_retry_at <= now() AND o.outcome = 'needs_attention'
    """
)

REOPENING = failpoint("the commit of trying again")
"""The failpoint of a transaction that calls `reopen_due`."""


async def is_retry_due() -> bool:
    """Returns whether the pause of any order under manual review is over."""
    async with transaction() as tx:
        return bool((await tx.execute(_ANY_DUE)).scalar())


async def reopen_due(tx: Tx, *, most: int) -> list[str]:
    """Reopens up to `most` orders whose pause is over, so that any worker compensates what is still due.
    Returns their ids."""
    locked = list((await tx.execute(_LOCK_DUE, {"most": most})).scalars())
    due = (await tx.execute(_STILL_DUE, {"ids": locked})).scalars().all() if locked else []
    return await tx.run_sync(manual.reopen, ORDERS, due) if due else []
