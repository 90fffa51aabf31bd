"""The external calls of shipping, before its transactions:
the stock at an inventory service, a label at a carrier.

The stock comes first: putting it back costs nothing, and without it no label is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saga.execution import ExternalAction
from shop.inventory import stock
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping.booking import before_booking, before_voiding
from shop.shipping.carriers import EMBEDDED, STEP, carrier_of
from shop.shipping.embedded import EmbeddedCarrier


def before_fulfilment(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what ships the stock of each order and buys its label, if that is external for one of them.
    Raises what an `Inventory` and a `Carrier` raise."""
    actions = [action for action in (stock.before_ship(orders), before_booking(orders)) if action is not None]
    if not actions:
        return None

    async def prepare(order: OrderInstance) -> dict[str, Any]:
        if carrier_of(order) == EMBEDDED and order.payload.needs_shipment:
            # An order that the carrier refuses needs no stock.
            EmbeddedCarrier(settings()).check(order.payload)
        return await _in_sequence(order, actions)

    return prepare


def before_return(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what puts the stock of each order back and voids its label,
    if that is external for one of them.

    A parcel that has left comes back only if its label can be voided or is used, so its stock waits for that.
    What never left does not depend on its label.
    """
    actions = [
        action for action in (stock.before_put_back(orders), before_voiding(orders)) if action is not None
    ]
    if not actions:
        return None

    async def take_back(order: OrderInstance) -> dict[str, Any]:
        has_left = order.journal[STEP].status == "done"
        return await _in_sequence(order, actions[::-1] if has_left else actions)

    return take_back


async def _in_sequence(order: OrderInstance, actions: Sequence[ExternalAction]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for action in actions:
        result.update(dict(await action(order)))
    return result
