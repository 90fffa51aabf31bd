"""Receives goods where the stock is: in our own tables, or at the inventory service."""

from __future__ import annotations

from collections.abc import Sequence

from saga.database import transaction
from saga.failpoints import failpoint
from shop.inventory.deliveries import DeliveryNote, DeliveryReceipt, store
from shop.inventory.service.connections import service
from shop.settings import settings

_RECEIVING = failpoint("the commit of receiving goods")


async def receive(deliveries: Sequence[DeliveryNote], *, started_by: str) -> list[DeliveryReceipt]:
    """Records all the deliveries and adds their pieces to the stock, or does nothing. A delivery that was
    received before, with the same pieces, adds nothing.

    `started_by`: what the system knows of who records it. Raises `DeliveryConflict`, `UnknownProducts`, and,
    with `INVENTORY_SERVICE_URL`, what the inventory service raises; after `InventoryUnavailable` the result
    is unclear, and the same call with the same references is safe.
    """
    if (url := settings().inventory.service_url) is not None:
        at = service(url)
        try:
            return await at.receive(deliveries, started_by=started_by)
        finally:
            await at.aclose()
    async with transaction(_RECEIVING) as tx:
        return await store(tx, deliveries, started_by=started_by)
