"""Reservations that ran out: what they hold goes back, unless their order is alive (somebody works on it under a lease)."""

from __future__ import annotations

from sqlalchemy import text

from shop.database import as_json, transaction
from shop.inventory import STEP, give_back
from shop.journal import lock_dead_leases
from shop.points import effect

_EXPIRING = effect("the commit of expiring reservations")
# Only orders whose lease is dead and can be locked, as in claiming: then nobody is writing about them.
_EXPIRED = text(
    """
    SELECT o.id FROM customer_order o JOIN reservation r ON r.order_id = o.id
    WHERE r.state = 'held' AND NOT r.at_service AND r.expires_at < now()
      AND (o.outcome IS NOT NULL OR o.lease_id IS NULL OR o.lease_id = ANY(CAST(:leases AS uuid[]))
           OR NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id))
    ORDER BY o.id LIMIT :most FOR UPDATE OF o SKIP LOCKED
    """
)
_STILL_HELD = text(
    "SELECT order_id, items FROM reservation WHERE order_id = ANY(CAST(:ids AS text[])) AND state = 'held' AND expires_at < now() "
    "ORDER BY order_id FOR UPDATE"
)
# A new fence: a worker that was paused and wakes up must not believe that it still holds the stock.
_FENCE_OFF = text("UPDATE customer_order SET fence = fence + 1, lease_id = NULL WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NULL")
_JOURNAL = text(
    "UPDATE order_step s SET undo_status = 'done', undo_due = false, undo_begun_at = now(), undo_ended_at = now(), undo_result = r.result "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, result jsonb) WHERE s.step = :step AND s.order_id = r.order_id"
)


async def expire_reservations(*, most: int = 500) -> list[str]:
    """Gives back what up to `most` dead reservations hold, and says so in the journal; an order that goes on later reserves anew.
    Returns the orders' ids."""
    async with transaction(_EXPIRING) as tx:
        leases = await lock_dead_leases(tx)
        ids = list((await tx.execute(_EXPIRED, {"most": most, "leases": leases})).scalars())
        if not ids:
            return []
        held = {row.order_id: row.items for row in await tx.execute(_STILL_HELD, {"ids": ids})}
        await give_back(tx, held)
        await tx.execute(_FENCE_OFF, {"ids": list(held)})
        rows = [
            {"order_id": i, "result": {"compensation_status": "success", "expired": True, "released_items": n}} for i, n in held.items()
        ]
        await tx.execute(_JOURNAL, {"step": STEP, "rows": as_json(rows)})
    return list(held)
