"""Step 2: reserve the items, all or none. Undone by releasing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop import inventory
from shop.database import Tx
from shop.errors import OrderError
from shop.inventory import ReleaseResult, ReservationResult
from shop.under_way import OrderUnderWay
from tasks.step import database_step, database_undo


@database_step()
async def check_inventory(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReservationResult | OrderError]:
    """Reserves every item of an order or none. Raises `OutOfStock` with every item that is short."""
    return await inventory.reserve(tx, orders)


@database_undo()
async def release_inventory(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReleaseResult]:
    """Gives the reserved items back; says so when there were none."""
    return await inventory.release(tx, orders)
