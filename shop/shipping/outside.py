"""What shipping needs from outside before its transaction, and what takes it back: stock at an inventory service, a label at a carrier.

Stock comes first: it costs nothing to put it back, and without it there is no need for a label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shop.inventory import inventories, service_steps
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping import carriers
from shop.shipping.booking import book, unbook
from shop.shipping.embedded import EmbeddedCarrier


def is_needed(orders: Iterable[OrderInstance]) -> bool:
    """Whether something outside is to be asked for one of the orders."""
    orders = list(orders)
    return carriers.any_outside(orders) or inventories.any_outside(orders)


async def prepare(instance: OrderInstance) -> dict[str, Any]:
    """Has the stock committed and a label. Raises what an `Inventory` and a `Carrier` raise."""
    if carriers.carrier_of(instance) == carriers.EMBEDDED:
        EmbeddedCarrier(settings()).check(instance.payload)  # what will be refused needs no stock
    return {**await service_steps.commit(instance), **await book(instance)}


async def take_back(instance: OrderInstance) -> dict[str, Any]:
    """Puts the stock back and voids the label. A parcel that has left comes back only if its label can be voided or is used: then the stock
    waits for that. What never left does not depend on what becomes of its label."""
    if instance.journal[carriers.STEP].status == "done":
        return {**await unbook(instance), **await service_steps.put_back(instance)}
    return {**await service_steps.put_back(instance), **await unbook(instance)}
