"""Clients of inventory services: one connection pool and circuit breaker per address and event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from shop.inventory.service.breaker import GuardedInventory
from shop.inventory.service.client import ServiceInventory
from shop.inventory.service.contract import Inventory
from shop.settings import settings

_listeners: list[Callable[[str, str | None], None]] = []
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Inventory]] = WeakKeyDictionary()


def service(url: str) -> ServiceInventory:
    """Creates a client of the service at that address, with its own connections and without a circuit
    breaker."""
    s = settings()
    token = s.inventory.service_token.get_secret_value() if s.inventory.service_token else None
    return ServiceInventory(
        url, token, timeout_seconds=s.inventory.timeout_seconds, concurrency=s.inventory.concurrency
    )


def inventory_at(url: str) -> Inventory:
    """Returns the running event loop's client of the service at that address, shared by all its orders."""
    services = _open.setdefault(asyncio.get_running_loop(), {})
    if url not in services:
        s = settings()
        services[url] = GuardedInventory(
            service(url),
            failures=s.inventory.breaker_failures,
            pause_seconds=s.inventory.breaker_seconds,
            concurrency=s.inventory.concurrency,
            on_change=lambda why: _report(url, why),
        )
    return services[url]


def on_change(listener: Callable[[str, str | None], None]) -> None:
    """Registers a listener, called with a service's address and the reason when this process's circuit to it
    opens, and with None as the reason when it closes again."""
    _listeners.append(listener)


def _report(url: str, why: str | None) -> None:
    for listener in _listeners:
        listener(url, why)


async def close_inventories() -> None:
    """Closes the running loop's connections."""
    for each in _open.pop(asyncio.get_running_loop(), {}).values():
        await each.aclose()
