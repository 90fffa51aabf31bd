"""The embedded stock as an `OrderStock`: our own tables, in the step's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saga import ExternalAction
from saga.database import Tx
from saga.errors import StepError
from shop.inventory import reservations
from shop.inventory.errors import ReservationLost
from shop.inventory.port import ReleaseResult, ReservationResult, release_result, reservation_result
from shop.orders.order import OrderInstance
from shop.settings import settings

before_reserve: ExternalAction | None = None
before_release: ExternalAction | None = None
before_ship: ExternalAction | None = None
before_put_back: ExternalAction | None = None


async def reserve(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReservationResult | StepError]:
    """Reserves the orders' items, in the sequence of the orders."""
    held = await reservations.lock_held(tx, [order.id for order in orders])
    asking = {order.id: order.payload.wanted for order in orders if order.id not in held}
    refused = await reservations.take(tx, asking, _expiry_seconds())
    return {order.id: refused.get(order.id) or reservation_result(order) for order in orders}


async def release(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReleaseResult]:
    """Releases what the orders hold."""
    held = await reservations.lock_held(tx, [order.id for order in orders])
    await reservations.give_back(tx, held)
    return {order.id: release_result(order.id, held.get(order.id, {})) for order in orders}


async def ship(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, dict[str, int] | ReservationLost]:
    """Takes what the orders hold out of stock."""
    return await reservations.ship(tx, [order.id for order in orders])


async def put_back(
    tx: Tx, orders: Sequence[OrderInstance], returned: Mapping[str, Mapping[str, int]]
) -> Mapping[str, Mapping[str, int]]:
    """Puts the pieces of the returned parcels back into stock. Returns them, by order."""
    back = {order.id: returned[order.id] for order in orders if order.id in returned}
    await reservations.put_back(tx, back)
    return back


async def before_extend(orders: Sequence[OrderInstance], seconds: float) -> None:
    """Does nothing: `extend` extends reservations in the transaction."""


async def extend(tx: Tx, orders: Sequence[OrderInstance], seconds: float) -> None:
    """Extends the reservations of these orders, whose rows the caller has locked."""
    await reservations.extend(tx, [order.id for order in orders], seconds + _expiry_seconds())


def _expiry_seconds() -> float:
    return settings().inventory.reservation_minutes * 60
