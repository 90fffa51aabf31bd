"""The configured payment gateway behind a circuit breaker, one client per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import TypeVar
from weakref import WeakKeyDictionary

from saga.circuit_breaker import Circuit, OnChange
from saga.clock import database_time
from saga.limit import Limit
from shop.payments.errors import PaymentError, PaymentGatewayUnavailable
from shop.payments.gateway import AsksCustomers, GatewayClient, Payment, Refund
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


class GuardedGateway:
    """A `GatewayClient` that raises `PaymentGatewayUnavailable` immediately while its circuit is open."""

    def __init__(
        self,
        inner: GatewayClient,
        *,
        failures: int,
        pause_seconds: float,
        concurrency: int,
        on_change: OnChange,
    ) -> None:
        """Opens the circuit after `failures` consecutive failures; after `pause_seconds` one call tests the
        gateway. `concurrency` limits simultaneous calls."""
        self.inner = inner
        self._circuit = Circuit(
            failures=failures,
            pause_seconds=pause_seconds,
            concurrency=concurrency,
            is_failure=is_failure,
            unavailable=PaymentGatewayUnavailable,
            on_change=on_change,
        )

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        async with PAYMENT_GATEWAY.turn():
            return await self._circuit.ask(call)

    async def create(
        self,
        *,
        order_id: str,
        amount: Decimal,
        currency: str,
        method: str,
        card_last4: str | None,
        token: str | None,
        key: str,
        try_number: int = 1,
        installation: str | None = None,
    ) -> Payment:
        return await self._call(
            lambda: self.inner.create(
                order_id=order_id,
                amount=amount,
                currency=currency,
                method=method,
                card_last4=card_last4,
                token=token,
                key=key,
                try_number=try_number,
                installation=installation,
            )
        )

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        return await self._call(lambda: self.inner.confirm(payment_id, key=key))

    async def get(self, payment_id: str) -> Payment:
        return await self._call(lambda: self.inner.get(payment_id))

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        return await self._call(lambda: self.inner.find(order_id, installation=installation))

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return await self._call(lambda: self.inner.cancel(payment_id, key=key))

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        return await self._call(
            lambda: self.inner.refund(payment_id, amount=amount, currency=currency, key=key)
        )

    async def client_secret(self, payment_id: str) -> str | None:
        """Returns the client secret of a payment that waits for its customer; None for other payments, and
        for gateways without such."""
        inner = self.inner
        if not isinstance(inner, AsksCustomers):
            return None
        return await self._call(lambda: inner.client_secret(payment_id))

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        pages = self.inner.pages(since)
        while (page := await self._call(lambda: anext(pages, None))) is not None:
            yield page

    async def aclose(self) -> None:
        await self.inner.aclose()


PAYMENT_GATEWAY = Limit(
    "payment-gateway",
    most=lambda: settings().payments.concurrency,
    total=lambda: settings().payments.calls,
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
