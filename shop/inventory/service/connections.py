"""Clients of inventory services: one connection pool and circuit breaker per address and event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from saga.circuit_breaker import Circuit, OnChange
from shop.inventory.errors import InventoryMismatch, InventoryUnavailable
from shop.inventory.service.client import ServiceInventory
from shop.inventory.settings import InventorySettings
from shop.settings import settings

_listeners: list[Callable[[str, str | None], None]] = []
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, ServiceInventory]] = WeakKeyDictionary()


def service(url: str, circuit: Circuit | None = None) -> ServiceInventory:
    """Creates a client of the service at that address, with its own connections."""
    s = settings()
    token = s.inventory.service_token.get_secret_value() if s.inventory.service_token else None
    return ServiceInventory(
        url,
        token,
        timeout_seconds=s.inventory.timeout_seconds,
        concurrency=s.inventory.concurrency,
        circuit=circuit,
    )


def inventory_at(url: str) -> ServiceInventory:
    """Returns the running event loop's client of the service at that address, shared by all its orders."""
    services = _open.setdefault(asyncio.get_running_loop(), {})
    if url not in services:
        services[url] = service(url, circuit(settings().inventory, lambda why: _report(url, why)))
    return services[url]


def circuit(s: InventorySettings, on_change: OnChange) -> Circuit:
    """Creates the circuit breaker of one service. Refusals, such as out of stock, do not count as failures;
    nor does a wrong answer for one order, or one that gives the time of the next attempt."""

    def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
        unavailable = isinstance(error, InventoryUnavailable) and error.retry_after is None
        return unavailable and not isinstance(error, InventoryMismatch)

    return Circuit(
        failures=s.breaker_failures,
        pause_seconds=s.breaker_seconds,
        concurrency=s.concurrency,
        is_failure=is_failure,
        unavailable=lambda wait: InventoryUnavailable(
            "the inventory service is unavailable and is not called for a while", retry_after=wait
        ),
        on_change=on_change,
    )


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
