"""Calls to external systems before the fulfilment's transaction, and their compensation: stock at an
inventory service, and a label of a carrier.

Stock comes first: returning it costs nothing, and without it no label is needed.
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
    """Returns whether one of the orders needs an external system."""
    orders = list(orders)
    return carriers.any_outside(orders) or inventories.any_outside(orders)


async def prepare(instance: OrderInstance) -> dict[str, Any]:
    """Commits the stock and buys a label. Raises what an `Inventory` and a `Carrier` raise."""
    if carriers.carrier_of(instance) == carriers.EMBEDDED:
        EmbeddedCarrier(settings()).check(instance.payload)  # a refused parcel needs no stock
    return {**await service_steps.commit(instance), **await book(instance)}


async def take_back(instance: OrderInstance) -> dict[str, Any]:
    """Returns the stock and voids the label. The stock of a shipped order is returned only after its label
    was voided or used; that of an order that was not shipped does not depend on its label."""
    if instance.journal[carriers.STEP].status == "done":
        return {**await unbook(instance), **await service_steps.put_back(instance)}
    return {**await service_steps.put_back(instance), **await unbook(instance)}
