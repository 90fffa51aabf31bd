"""The stock of a batch of orders, for the saga: passes each order to its adapter.

An order keeps the adapter with which it reserved, even when the settings change. Only this module knows which
adapter that is. Each operation has a function for the step's transaction, and a `before_*` function that
returns the action to run for each order before it (None: nothing to run).

The adapters are modules; their functions are looked up at each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, text

from saga import ExternalAction
from saga.database import Tx, transaction
from saga.errors import StepError
from saga.failpoints import failpoint
from shop.inventory import embedded
from shop.inventory.deliveries import DeliveryNote, DeliveryReceipt, store
from shop.inventory.errors import ReservationLost
from shop.inventory.port import STEP, OrderStock, ReleaseResult, ReservationResult
from shop.inventory.service import connections
from shop.inventory.service import order_stock as service
from shop.orders.order import OrderInstance
from shop.settings import settings

R = TypeVar("R")
_EMBEDDED: OrderStock = embedded
_SERVICE: OrderStock = service
_HELD = text(
    "SELECT (SELECT items FROM reservation WHERE order_id = :id AND state = 'held') AS embedded, "
    "(SELECT result FROM order_step WHERE order_id = :id AND step = :step AND status = 'done' AND "
    "undo_status IS DISTINCT FROM 'done' "
    "AND notes ->> 'inventory' IS NOT NULL) AS at_service"
)


def before_reserve(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns the action to run for each order before `reserve`. It raises the errors of an inventory
    service."""
    return _external(orders, _adapter_to_reserve_with, lambda stock: stock.before_reserve)


async def reserve(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReservationResult | StepError]:
    """Reserves all items of an order, or none. Returns `OutOfStock` with every item that is short."""
    return await _each(orders, lambda stock, some: stock.reserve(tx, some))


def before_release(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns the action to run for each order before `release`."""
    return _external(orders, _adapter_of, lambda stock: stock.before_release)


async def release(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReleaseResult]:
    """Releases what the orders hold; `compensation_status` shows whether they held anything."""
    return await _each(orders, lambda stock, some: stock.release(tx, some))


def before_ship(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns the action to run for each order before `ship`. It raises `ReservationLost`, and the errors of
    an inventory service."""
    return _external(orders, _adapter_of, lambda stock: stock.before_ship)


async def ship(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, Mapping[str, int] | ReservationLost]:
    """Takes what the orders hold out of stock. Returns the pieces per product of each order, in the sequence
    of the orders."""
    return await _each(orders, lambda stock, some: stock.ship(tx, some))


def before_put_back(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns the action to run for each order before `put_back`."""
    return _external(orders, _adapter_of, lambda stock: stock.before_put_back)


async def put_back(
    tx: Tx, orders: Sequence[OrderInstance], returned: Mapping[str, Mapping[str, int]]
) -> dict[str, Mapping[str, int]]:
    """Puts shipped pieces back into stock. `returned`: the pieces of the orders whose parcels are returned
    now. Returns the pieces that are in stock again, by order."""
    return await _each(orders, lambda stock, some: stock.put_back(tx, some, returned))


async def before_extend(orders: Sequence[OrderInstance], seconds: float) -> None:
    """Extends the reservations of adapters that do it before the transaction. Logs failures."""
    await asyncio.gather(*(stock.before_extend(some, seconds) for stock, some in _by_adapter(orders)))


async def extend(tx: Tx, orders: Sequence[OrderInstance], seconds: float) -> None:
    """Extends the orders' reservations: they last at least this long, and `RESERVATION_MINUTES` more."""
    for stock, some in _by_adapter(orders):
        await stock.extend(tx, some, seconds)


def held_pieces(connection: Connection, order_id: str) -> dict[str, int]:
    """Returns the pieces per product that the order holds according to our own database. Does not call an
    inventory service."""
    row = connection.execute(_HELD, {"id": order_id, "step": STEP}).one()
    return dict(row.embedded) if row.embedded else service.reserved_pieces(row.at_service or {})


def _adapter_of(order: OrderInstance) -> OrderStock:
    return _SERVICE if service.address_of(order) is not None else _EMBEDDED


def _adapter_to_reserve_with(order: OrderInstance) -> OrderStock:
    if not order.payload.needs_shipment:  # nothing to reserve: no service has to be asked
        return _EMBEDDED
    return _SERVICE if service.address_to_reserve_at(order) is not None else _EMBEDDED


def _by_adapter(orders: Sequence[OrderInstance]) -> list[tuple[OrderStock, list[OrderInstance]]]:
    """Divides a batch by adapter. Omits adapters without orders."""
    parts: dict[int, tuple[OrderStock, list[OrderInstance]]] = {}
    for order in orders:
        stock = _adapter_of(order)
        parts.setdefault(id(stock), (stock, []))[1].append(order)
    return list(parts.values())


async def _each(
    orders: Sequence[OrderInstance],
    act: Callable[[OrderStock, list[OrderInstance]], Awaitable[Mapping[str, R]]],
) -> dict[str, R]:
    """Runs the operation of each adapter for its part of the batch. Returns the results in the batch's
    sequence."""
    results: dict[str, R] = {}
    for stock, some in _by_adapter(orders):
        results.update(await act(stock, some))
    return {order.id: results[order.id] for order in orders if order.id in results}


def _external(
    orders: Sequence[OrderInstance],
    adapter_of: Callable[[OrderInstance], OrderStock],
    action_of: Callable[[OrderStock], ExternalAction | None],
) -> ExternalAction | None:
    """Returns an action that runs the one of each order's adapter; None if no adapter has one."""
    if all(action_of(adapter_of(order)) is None for order in orders):
        return None

    async def act(order: OrderInstance) -> Any:
        own = action_of(adapter_of(order))
        return {} if own is None else await own(order)

    return act


_RECEIVING = failpoint("the commit of receiving goods")


async def receive(deliveries: Sequence[DeliveryNote], *, started_by: str) -> list[DeliveryReceipt]:
    """Records all the deliveries and adds their pieces to the stock, or does nothing. A delivery that was
    received before, with the same pieces, adds nothing.

    `started_by`: what the system knows of who records it. Raises `DeliveryConflict`, `UnknownProducts`, and,
    with `INVENTORY_SERVICE_URL`, what the inventory service raises; after `InventoryUnavailable` the result
    is unclear, and the same call with the same references is safe.
    """
    if (url := settings().inventory.service_url) is not None:
        at = connections.service(url)
        try:
            return await at.receive(deliveries, started_by=started_by)
        finally:
            await at.aclose()
    async with transaction(_RECEIVING) as tx:
        return await store(tx, deliveries, started_by=started_by)
