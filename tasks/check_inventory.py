"""Step 2: reserves the items, all or none. Its compensation releases them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saga.database import Tx
from saga.errors import StepError
from saga.prefect.steps import database_compensation, database_step
from shop.inventory import stock
from shop.inventory.port import ReleaseResult, ReservationResult
from shop.orders.order import OrderInstance
from tasks import external_health  # noqa: F401  (registers the reports about the service)


@database_step(before=stock.before_reserve)
async def check_inventory(
    tx: Tx, orders: Sequence[OrderInstance]
) -> Mapping[str, ReservationResult | StepError]:
    """Reserves all items of an order or none: in our tables, or (before the transaction) at the inventory
    service. Raises `OutOfStock` with every item that is short, and the other errors of an `Inventory`."""
    return await stock.reserve(tx, orders)


@database_compensation(before=stock.before_release)
async def release_inventory(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, ReleaseResult]:
    """Releases the reserved items; the result says if there were none."""
    return await stock.release(tx, orders)
