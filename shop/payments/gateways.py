"""The configured payment gateway behind a circuit breaker, one client per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from saga.circuit_breaker import Circuit, OnChange
from saga.clock import database_time
from saga.limit import Limit
from shop.payments.errors import PaymentError, PaymentGatewayUnavailable
from shop.payments.gateway import GatewayClient
from shop.payments.ownership import OwnPayments
from shop.payments.sandbox.client import SandboxGateway
from shop.runtime.extras import needs_extra
from shop.settings import settings

T = TypeVar("T")

_NOT_THE_GATEWAY = frozenset(
    {"processing_error", "processing", "requires_action", "lock_timeout", "idempotency_key_in_use"}
)
"""Retryable error codes that concern a single card or payment: the gateway itself works."""


def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
    """Returns whether the gateway caused the error, not the card or the request."""
    return isinstance(error, PaymentError) and error.retryable and error.error_code not in _NOT_THE_GATEWAY


class GatewayGuard:
    """Makes calls to the gateway (`shop.payments.ownership.Guard`). Raises `PaymentGatewayUnavailable`
    immediately while its circuit is open."""

    def __init__(self, *, failures: int, pause_seconds: float, concurrency: int, on_change: OnChange) -> None:
        """Opens the circuit after `failures` consecutive failures; after `pause_seconds` one call tests the
        gateway. `concurrency` limits simultaneous calls."""
        self._circuit = Circuit(
            failures=failures,
            pause_seconds=pause_seconds,
            concurrency=concurrency,
            is_failure=is_failure,
            unavailable=PaymentGatewayUnavailable,
            on_change=on_change,
        )

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T:
        async with PAYMENT_GATEWAY.turn():
            return await self._circuit.ask(call)


def configured_guard(on_change: OnChange) -> GatewayGuard:
    """Returns a guard with the limits from the settings."""
    s = settings().payments
    return GatewayGuard(
        failures=s.breaker_failures,
        pause_seconds=s.breaker_seconds,
        concurrency=s.concurrency,
        on_change=on_change,
    )


PAYMENT_GATEWAY = Limit(
    "payment-gateway", most=lambda: settings().payments.concurrency, total=lambda: settings().payments.calls
)


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
        client = _CHOICES[settings().payments.gateway]()
        _open[loop] = OwnPayments(client, configured_guard(_notify_listeners))
    return _open[loop]


def on_change(listener: Callable[[str | None], None]) -> None:
    """Registers a listener of this process's circuit breakers. It gets the reason when one opens, and None
    when the gateway answers again."""
    _listeners.append(listener)


def _notify_listeners(why: str | None) -> None:
    for listener in _listeners:
        listener(why)


def use(chosen: OwnPayments) -> None:
    """Makes the running event loop use this gateway (benchmarks run with one in their own process)."""
    _open[asyncio.get_running_loop()] = chosen


async def close_gateway() -> None:
    """Closes the running loop's connections."""
    if (mine := _open.pop(asyncio.get_running_loop(), None)) is not None:
        await mine.aclose()
