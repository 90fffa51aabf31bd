"""A circuit breaker around the gateway. A refused card is the gateway at work, not a failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from saga.circuit_breaker import Circuit, OnChange
from shop.payments.errors import PaymentError, PaymentGatewayUnavailable
from shop.payments.gateway import GatewayClient, Payment, Refund
from shop.payments.limit import PAYMENT_GATEWAY

T = TypeVar("T")

_ABOUT_ONE_CARD = frozenset({"processing_error", "processing", "requires_action", "lock_timeout", "idempotency_key_in_use"})
"""Retryable, but the gateway is well enough to say that it is the card, or this one payment."""


def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
    """Whether the gateway, and not the card or the request, is at fault."""
    return isinstance(error, PaymentError) and error.retryable and error.error_code not in _ABOUT_ONE_CARD


class GuardedGateway:
    """A `GatewayClient` that raises `PaymentGatewayUnavailable`, at once, while its circuit is open."""

    def __init__(self, inner: GatewayClient, *, failures: int, pause_seconds: float, concurrency: int, tell: OnChange) -> None:
        """`failures` in a row open the circuit; `pause_seconds` later one call tries it. `concurrency`: calls at once."""
        self.inner = inner
        self._circuit = Circuit(
            failures=failures,
            pause_seconds=pause_seconds,
            concurrency=concurrency,
            is_failure=is_failure,
            unavailable=PaymentGatewayUnavailable,
            on_change=tell,
        )

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with PAYMENT_GATEWAY.turn():
            return await self._circuit.ask(ask)

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
        installation: str | None = None,
    ) -> Payment:
        return await self._ask(
            lambda: self.inner.create(
                order_id=order_id,
                amount=amount,
                currency=currency,
                method=method,
                card_last4=card_last4,
                token=token,
                key=key,
                installation=installation,
            )
        )

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        return await self._ask(lambda: self.inner.confirm(payment_id, key=key))

    async def get(self, payment_id: str) -> Payment:
        return await self._ask(lambda: self.inner.get(payment_id))

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        return await self._ask(lambda: self.inner.find(order_id, installation=installation))

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return await self._ask(lambda: self.inner.cancel(payment_id, key=key))

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        return await self._ask(lambda: self.inner.refund(payment_id, amount=amount, currency=currency, key=key))

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        pages = self.inner.pages(since)
        while (page := await self._ask(lambda: anext(pages, None))) is not None:
            yield page

    async def aclose(self) -> None:
        await self.inner.aclose()
