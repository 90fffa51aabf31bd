"""The status of orders at the pivot: an order is marked as shipped, or it is cancelled, never both."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from saga.database import Tx
from saga.errors import SagaCancelled

# The point of no return. A cancellation writes the same row,
# so that one of the two is first and the other sees it.
_MARK = text(
    "UPDATE customer_order SET status = 'shipped' "
    "WHERE id = ANY(CAST(:ids AS text[])) AND cancel_requested_at IS NULL RETURNING id"
)
_CANCELLED = text("SELECT id, cancel_reason FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
_UNMARK = text("UPDATE customer_order SET status = 'received' WHERE id = ANY(CAST(:ids AS text[]))")


async def mark_shipped(tx: Tx, order_ids: Sequence[str]) -> dict[str, SagaCancelled]:
    """Marks the orders as shipped, and returns those that are to be cancelled: they are not marked."""
    if not order_ids:
        return {}
    marked = set((await tx.execute(_MARK, {"ids": list(order_ids)})).scalars())
    if len(marked) == len(order_ids):
        return {}
    rows = await tx.execute(_CANCELLED, {"ids": [i for i in order_ids if i not in marked]})
    return {row.id: SagaCancelled(row.cancel_reason) for row in rows.all()}


async def unmark_shipped(tx: Tx, order_ids: Sequence[str]) -> None:
    """Reverts `mark_shipped` in the same transaction, for orders that cannot be shipped after all."""
    if order_ids:
        await tx.execute(_UNMARK, {"ids": list(order_ids)})
