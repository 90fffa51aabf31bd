"""Step 2: reserve the items, all or none. Undone by releasing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop import inventory
from shop.database import Tx
from shop.errors import OrderError
from shop.inventory import ReleaseResult, ReservationResult
from shop.stock import saga
from shop.stock.inventories import any_outside, stock_of, to_ask
from shop.under_way import OrderUnderWay
from shop.work import OutsideAction
from tasks import inventory_health  # noqa: F401  (tells of a service that is away)
from tasks.step import database_step, database_undo


def _reserving(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return saga.reserve if any(to_ask(order) for order in orders) else None


def _releasing(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return saga.release if any_outside(orders) else None


@database_step(before=_reserving)
async def check_inventory(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReservationResult | OrderError]:
    """Reserves every item of an order or none: here, or (before the transaction) at the inventory service. Raises `OutOfStock` with every
    item that is short, and what else an `Inventory` raises."""
    here = await inventory.reserve(tx, [order for order in orders if stock_of(order) is None])
    return {order.id: here[order.id] if stock_of(order) is None else inventory.result_of(order) for order in orders}


@database_undo(before=_releasing)
async def release_inventory(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReleaseResult]:
    """Gives the reserved items back; says so when there were none."""
    here = await inventory.release(tx, [order for order in orders if stock_of(order) is None])
    return {order.id: here[order.id] if stock_of(order) is None else saga.released(order) for order in orders}
