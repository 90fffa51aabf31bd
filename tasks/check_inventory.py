"""Step 2: reserves the items, all or none. Its compensation releases them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saga.database import Tx
from saga.errors import StepError
from saga.execution import ExternalAction
from saga.prefect.steps import database_compensation, database_step
from shop.inventory import reservations, service_steps
from shop.inventory.inventories import any_outside, stock_of, to_ask
from shop.inventory.reservations import ReleaseResult, ReservationResult
from shop.orders.order import OrderInstance
from tasks import external_health  # noqa: F401  (registers the reports about the service)


def _reserving(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    return service_steps.reserve if any(to_ask(order) for order in orders) else None


def _releasing(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    return service_steps.release if any_outside(orders) else None


@database_step(before=_reserving)
async def check_inventory(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, ReservationResult | StepError]:
    """Reserves all items of an order or none: in our tables, or (before the transaction) at the inventory
    service. Raises `OutOfStock` with every item that is short, and the other errors of an `Inventory`."""
    here = await reservations.reserve(tx, [order for order in orders if stock_of(order) is None])
    return {order.id: here[order.id] if stock_of(order) is None else reservations.result_of(order) for order in orders}


@database_compensation(before=_releasing)
async def release_inventory(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, ReleaseResult]:
    """Releases the reserved items; the result says if there were none."""
    here = await reservations.release(tx, [order for order in orders if stock_of(order) is None])
    return {order.id: here[order.id] if stock_of(order) is None else service_steps.released(order) for order in orders}
