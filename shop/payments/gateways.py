"""The configured payment gateway, one client per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from saga.clock import database_time
from shop.payments.breaker import GuardedGateway
from shop.payments.gateway import GatewayClient
from shop.payments.ownership import OwnPayments
from shop.payments.sandbox.client import SandboxGateway
from shop.runtime.extras import needs_extra
from shop.settings import settings

_listeners: list[Callable[[str | None], None]] = []
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, OwnPayments] = WeakKeyDictionary()


def _sandbox() -> GatewayClient:
    s = settings()
    return SandboxGateway(
        s.payments.url, timeout_seconds=s.payments.timeout_seconds, concurrency=s.payments.concurrency
    )


def _stripe() -> GatewayClient:
    with needs_extra("stripe", "PAYMENT_GATEWAY=stripe"):
        from shop.payments.stripe.gateway import StripeGateway  # its SDK takes a third of a second to load

    s = settings()
    return StripeGateway(
        s.payments.url,
        s.stripe.api_key.get_secret_value() if s.stripe.api_key else "",
        timeout_seconds=s.payments.timeout_seconds,
        concurrency=s.payments.concurrency,
        customer_minutes=s.payments.customer_minutes,
        now=database_time,
    )


_CHOICES: dict[str, Callable[[], GatewayClient]] = {"sandbox": _sandbox, "stripe": _stripe}


def gateway() -> OwnPayments:
    """Returns the running event loop's gateway: one connection pool and one circuit breaker for all its
    orders. Shows this installation's payments only."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        s = settings()
        guarded = GuardedGateway(
            _CHOICES[s.payments.gateway](),
            failures=s.payments.breaker_failures,
            pause_seconds=s.payments.breaker_seconds,
            concurrency=s.payments.concurrency,
            on_change=_notify_listeners,
        )
        _open[loop] = OwnPayments(guarded)
    return _open[loop]


def on_change(listener: Callable[[str | None], None]) -> None:
    """Registers a listener of this process's circuit breakers. It gets the reason when one opens, and None
    when the gateway answers again."""
    _listeners.append(listener)


def _notify_listeners(why: str | None) -> None:
    for listener in _listeners:
        listener(why)


def use(chosen: GatewayClient) -> None:
    """Makes the running event loop use this gateway (benchmarks run with one in their own process)."""
    _open[asyncio.get_running_loop()] = OwnPayments(chosen)


async def close_gateway() -> None:
    """Closes the running loop's connections."""
    if (mine := _open.pop(asyncio.get_running_loop(), None)) is not None:
        await mine.aclose()
