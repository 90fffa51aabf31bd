"""Expires reservations of the embedded stock, except those of orders that a worker holds under a valid
lease."""

from __future__ import annotations

from sqlalchemy import text

from saga import manual
from saga.claims import lock_expired_leases
from saga.database import transaction
from saga.failpoints import failpoint
from shop.inventory.port import STEP
from shop.inventory.reservations import give_back
from shop.orders.store import ORDERS

_EXPIRING = failpoint("the commit of expiring reservations")
# Only orders without a valid lease whose rows can be locked, as in claiming: no worker processes them.
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
    "SELECT order_id, items FROM reservation WHERE order_id = ANY(CAST(:ids AS text[])) AND state = 'held' "
    "AND expires_at < now() "
    "ORDER BY order_id FOR UPDATE"
)


async def expire_reservations(*, most: int = 500) -> list[str]:
    """Releases up to `most` expired reservations and journals that. An order that continues later reserves
    again. Returns the orders' ids."""
    async with transaction(_EXPIRING) as tx:
        leases = await lock_expired_leases(tx, ORDERS)
        ids = list((await tx.execute(_EXPIRED, {"most": most, "leases": leases})).scalars())
        if not ids:
            return []
        held = {row.order_id: row.items for row in await tx.execute(_STILL_HELD, {"ids": ids})}
        await give_back(tx, held)
        results = {
            i: {"compensation_status": "success", "expired": True, "released_items": n}
            for i, n in held.items()
        }
        await tx.run_sync(manual.expire, ORDERS, STEP, results)
    return list(held)
