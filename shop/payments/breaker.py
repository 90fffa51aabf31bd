"""A circuit breaker around the gateway: when it fails again and again, nobody waits for it in vain.

After some failures in a row every call fails at once; after a pause one call is let through, and what becomes of it decides. A refused
card is the gateway at work, not a failure. Each process finds out by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]

from shop.errors import PaymentError, PaymentGatewayUnavailable
from shop.payments.gateway import Payment, PaymentGateway, Refund

T = TypeVar("T")
Tell = Callable[[str | None], None]
"""Told why the gateway is left alone from now on, or None when it answers again. Once for each change."""

_ABOUT_ONE_CARD = frozenset({"processing_error", "processing", "requires_action", "lock_timeout", "idempotency_key_in_use"})
"""Retryable, but the gateway is well enough to say that it is the card, or this one payment."""
_LONGEST_PAUSE = 60.0


def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
    """Whether the gateway, and not the card or the request, is at fault."""
    return isinstance(error, PaymentError) and error.retryable and error.error_code not in _ABOUT_ONE_CARD


class GuardedGateway:
    """A `PaymentGateway` that raises `PaymentGatewayUnavailable`, at once, while its circuit is open."""

    def __init__(self, inner: PaymentGateway, *, failures: int, pause_seconds: float, concurrency: int, tell: Tell) -> None:
        """`failures` in a row open the circuit; `pause_seconds` later one call tries it. `concurrency`: calls at once."""
        self.inner = inner
        self._turns = asyncio.Semaphore(concurrency)
        self._pause, self._tell = pause_seconds, tell
        self._circuit = CircuitBreaker(failure_threshold=failures, recovery_timeout=pause_seconds, expected_exception=is_failure)
        self._trying = False
        self._since: float | None = None
        """When the circuit opened, while it is not closed; by `time.monotonic()`."""

    async def create(
        self, *, order_id: str, amount: Decimal, currency: str, method: str, card_last4: str | None, token: str | None, key: str
    ) -> Payment:
        return await self._ask(
            lambda: self.inner.create(
                order_id=order_id, amount=amount, currency=currency, method=method, card_last4=card_last4, token=token, key=key
            )
        )

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        return await self._ask(lambda: self.inner.confirm(payment_id, key=key))

    async def get(self, payment_id: str) -> Payment:
        return await self._ask(lambda: self.inner.get(payment_id))

    async def find(self, order_id: str) -> list[Payment]:
        return await self._ask(lambda: self.inner.find(order_id))

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

    # -- the circuit --

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:  # who waited for a turn while the circuit opened must not try, too
            trying = not self._circuit.closed
            if self._circuit.opened or (trying and self._trying):
                raise self._unavailable()
            self._trying = self._trying or trying
            try:
                answer = await ask()
            except PaymentError as error:
                self._count(error)
                if self._circuit.opened and is_failure(type(error), error):
                    raise self._unavailable() from error
                raise
            finally:  # a call that was cancelled says nothing about the gateway, and another may try
                self._trying = self._trying and not trying
            self._count(None)
            return answer

    def _count(self, error: PaymentError | None) -> None:
        self._circuit.__exit__(type(error) if error else None, error, None)
        if self._circuit.opened and self._since is None:
            self._since = time.monotonic()
            self._tell(str(error))
        elif self._circuit.closed and self._since is not None:
            self._since = None
            self._tell(None)

    def _unavailable(self) -> PaymentGatewayUnavailable:
        """The longer it has been away, the longer is an order put off: waiting orders must not keep everybody busy."""
        away = time.monotonic() - self._since if self._since is not None else 0.0
        return PaymentGatewayUnavailable(max(self._pause, min(_LONGEST_PAUSE, away)))
