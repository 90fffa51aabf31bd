"""Which inventory the settings choose, and which one an order was begun with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from shop.inventory.breaker import GuardedInventory
from shop.inventory.port import Inventory, own_order_id
from shop.inventory.reservations import STEP
from shop.inventory.service.client import ServiceInventory
from shop.orders.order import OrderInstance
from shop.settings import settings

NOTE = "inventory"
"""In the notes of `check_inventory`: the address of the service that the order's stock is at. Written before anything is sent there."""
MARK = "installation_id"
"""Beside it: the installation id in the order's name at the service. An order without it was begun by an earlier version."""
_listeners: list[Callable[[str, str | None], None]] = []
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Inventory]] = WeakKeyDictionary()


def service(url: str) -> ServiceInventory:
    """The service at that address, unguarded, with connections of its own."""
    s = settings()
    token = s.inventory.service_token.get_secret_value() if s.inventory.service_token else None
    return ServiceInventory(url, token, timeout_seconds=s.inventory.timeout_seconds, concurrency=s.inventory.concurrency)


def inventory_at(url: str) -> Inventory:
    """The running event loop's service at that address: one connection pool and one circuit breaker, shared by all its orders."""
    services = _open.setdefault(asyncio.get_running_loop(), {})
    if url not in services:
        s = settings()
        services[url] = GuardedInventory(
            service(url),
            failures=s.inventory.breaker_failures,
            pause_seconds=s.inventory.breaker_seconds,
            concurrency=s.inventory.concurrency,
            tell=lambda why: _tell(url, why),
        )
    return services[url]


def stock_of(order: OrderInstance) -> str | None:
    """The address of the service that this order's stock was asked of; None: the embedded stock's. Settings may have changed since then."""
    entry = order.journal.get(STEP)
    return entry.notes.get(NOTE) if entry else None


def name_at_service(order: OrderInstance) -> str:
    """What this order is called at its service."""
    entry = order.journal.get(STEP)
    mark = entry.notes.get(MARK) if entry else None
    return own_order_id(mark, order.id) if mark else order.id


def is_marked(order: OrderInstance) -> bool:
    """Whether its name at the service is ours alone."""
    return name_at_service(order) != order.id


def to_ask(order: OrderInstance) -> str | None:
    """Where the order's stock is to be reserved: where it was begun, else where the settings say."""
    return stock_of(order) or settings().inventory.service_url


def any_outside(orders: Iterable[OrderInstance]) -> bool:
    """Whether one of the orders has its stock at a service."""
    return any(stock_of(order) is not None for order in orders)


def on_change(listener: Callable[[str, str | None], None]) -> None:
    """From now on it is told which service this process leaves alone, and why, and (None) that it answers again."""
    _listeners.append(listener)


def _tell(url: str, why: str | None) -> None:
    for listener in _listeners:
        listener(url, why)


async def close_inventories() -> None:
    """Closes the running loop's connections."""
    for each in _open.pop(asyncio.get_running_loop(), {}).values():
        await each.aclose()
