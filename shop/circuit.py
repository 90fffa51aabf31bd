"""Leaving alone, for a while, what is outside and fails again and again: nobody waits for it in vain.

After some failures in a row every call fails at once; after a pause one call is let through, and what becomes of it decides. Each process
finds out by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]

from shop.errors import OrderError

T = TypeVar("T")
Tell = Callable[[str | None], None]
"""Told why it is left alone from now on, or None when it answers again. Once for each change."""
_LONGEST_PAUSE = 60.0


class Circuit:
    """Around one thing outside. While it is open, `ask` raises what `unavailable` makes of the seconds that an order is to wait."""

    def __init__(
        self,
        *,
        failures: int,
        pause_seconds: float,
        concurrency: int,
        is_failure: Callable[[type[BaseException], BaseException], bool],
        unavailable: Callable[[float], OrderError],
        tell: Tell,
    ) -> None:
        """`failures` in a row open it; `pause_seconds` later one call tries. `concurrency`: calls at once. `is_failure`: whether an error
        is the other side's fault, and not what was asked."""
        self._turns = asyncio.Semaphore(concurrency)
        self._pause, self._is_failure, self._make, self._tell = pause_seconds, is_failure, unavailable, tell
        self._circuit = CircuitBreaker(failure_threshold=failures, recovery_timeout=pause_seconds, expected_exception=is_failure)
        self._trying = False
        self._since: float | None = None
        """When it opened, while it is not closed; by `time.monotonic()`."""

    async def ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:  # who waited for a turn while the circuit opened must not try, too
            trying = not self._circuit.closed
            if self._circuit.opened or (trying and self._trying):
                raise self._unavailable()
            self._trying = self._trying or trying
            try:
                answer = await ask()
            except OrderError as error:
                self._count(error)
                if self._circuit.opened and self._is_failure(type(error), error):
                    raise self._unavailable() from error
                raise
            finally:  # a call that was cancelled says nothing about the other side, and another may try
                self._trying = self._trying and not trying
            self._count(None)
            return answer

    def _count(self, error: OrderError | None) -> None:
        self._circuit.__exit__(type(error) if error else None, error, None)
        if self._circuit.opened and self._since is None:
            self._since = time.monotonic()
            self._tell(str(error))
        elif self._circuit.closed and self._since is not None:
            self._since = None
            self._tell(None)

    def _unavailable(self) -> OrderError:
        """The longer it has been away, the longer is an order put off: waiting orders must not keep everybody busy."""
        away = time.monotonic() - self._since if self._since is not None else 0.0
        return self._make(max(self._pause, min(_LONGEST_PAUSE, away)))
