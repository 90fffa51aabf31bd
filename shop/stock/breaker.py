"""A circuit breaker around an inventory service, as there is one around the payment gateway.

After some failures in a row every call fails at once, as `InventoryUnavailable` with a time: orders are put off, not undone. After a pause
one call is let through, and what becomes of it decides. Out of stock is the service at work, not a failure. Each process finds out by
itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]

from shop.errors import InventoryUnavailable
from shop.stock.protocol import Inventory, Reservation

T = TypeVar("T")
Tell = Callable[[str | None], None]
"""Told why the service is left alone from now on, or None when it answers again. Once for each change."""
_LONGEST_PAUSE = 60.0


def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
    """Whether the service is at fault. One that says when to come again is well."""
    return isinstance(error, InventoryUnavailable) and error.retry_after is None


class GuardedInventory:
    """An `Inventory` that raises `InventoryUnavailable`, at once and with `retry_after`, while its circuit is open."""

    def __init__(self, inner: Inventory, *, failures: int, pause_seconds: float, concurrency: int, tell: Tell) -> None:
        """`failures` in a row open the circuit; `pause_seconds` later one call tries it. `concurrency`: calls at once."""
        self.inner = inner
        self._turns = asyncio.Semaphore(concurrency)
        self._pause, self._tell = pause_seconds, tell
        self._circuit = CircuitBreaker(failure_threshold=failures, recovery_timeout=pause_seconds, expected_exception=is_failure)
        self._trying = False
        self._since: float | None = None
        """When the circuit opened, while it is not closed; by `time.monotonic()`."""

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        return await self._ask(lambda: self.inner.reserve(order_id, items, seconds=seconds))

    async def get(self, order_id: str) -> Reservation | None:
        return await self._ask(lambda: self.inner.get(order_id))

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        return await self._ask(lambda: self.inner.keep(order_id, seconds=seconds))

    async def release(self, order_id: str) -> Reservation:
        return await self._ask(lambda: self.inner.release(order_id))

    async def commit(self, order_id: str) -> Reservation:
        return await self._ask(lambda: self.inner.commit(order_id))

    async def put_back(self, order_id: str) -> Reservation:
        return await self._ask(lambda: self.inner.put_back(order_id))

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:  # who waited for a turn while the circuit opened must not try, too
            trying = not self._circuit.closed
            if self._circuit.opened or (trying and self._trying):
                raise self._unavailable()
            self._trying = self._trying or trying
            try:
                answer = await ask()
            except Exception as error:
                self._count(error)
                if self._circuit.opened and is_failure(type(error), error):
                    raise self._unavailable() from error
                raise
            finally:  # a call that was cancelled says nothing about the service, and another may try
                self._trying = self._trying and not trying
            self._count(None)
            return answer

    def _count(self, error: Exception | None) -> None:
        self._circuit.__exit__(type(error) if error else None, error, None)
        if self._circuit.opened and self._since is None:
            self._since = time.monotonic()
            self._tell(str(error))
        elif self._circuit.closed and self._since is not None:
            self._since = None
            self._tell(None)

    def _unavailable(self) -> InventoryUnavailable:
        """The longer it has been away, the longer is an order put off: waiting orders must not keep everybody busy."""
        away = time.monotonic() - self._since if self._since is not None else 0.0
        wait = max(self._pause, min(_LONGEST_PAUSE, away))
        return InventoryUnavailable("the inventory service is away and is left alone for a while", retry_after=wait)
