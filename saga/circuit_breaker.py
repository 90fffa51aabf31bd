"""Circuit breaker: stops calling an external system for a cooldown period after repeated failures.

After a number of consecutive failures every call fails at once. After a pause one call is allowed, and its
result decides whether the circuit closes. Each process has its own state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from circuitbreaker import CircuitBreaker  # type: ignore[import-untyped]

from saga.errors import StepError

T = TypeVar("T")
OnChange = Callable[[str | None], None]
"""Is called once for each change: with the reason when the circuit opens, with None when it closes."""
_LONGEST_PAUSE = 60.0
"""Limits the pause of an instance, in seconds."""


class Circuit:
    """Guards one external system. While it is open, `ask` raises the error that `unavailable` makes from the
    seconds to postpone by."""

    def __init__(
        self,
        *,
        failures: int,
        pause_seconds: float,
        concurrency: int,
        is_failure: Callable[[type[BaseException], BaseException], bool],
        unavailable: Callable[[float], StepError],
        on_change: OnChange,
    ) -> None:
        """`failures`: how many consecutive ones open the circuit. `pause_seconds`: when a trial call is
        allowed. `concurrency`: limits concurrent calls. `is_failure`: whether an error is the external
        system's fault, and not the request's."""
        self._slots = asyncio.Semaphore(concurrency)
        self._pause, self._is_failure, self._unavailable_error, self._on_change = (
            pause_seconds,
            is_failure,
            unavailable,
            on_change,
        )
        self._circuit = CircuitBreaker(
            failure_threshold=failures, recovery_timeout=pause_seconds, expected_exception=is_failure
        )
        self._trying = False
        self._since: float | None = None
        """When the circuit opened (`time.monotonic()`); None while it is closed."""

    async def ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:  # checked after waiting: the circuit may have opened meanwhile
            trying = not self._circuit.closed
            if self._circuit.opened or (trying and self._trying):
                raise self._unavailable()
            self._trying = self._trying or trying
            try:
                answer = await ask()
            except StepError as error:
                self._count(error)
                if self._circuit.opened and self._is_failure(type(error), error):
                    raise self._unavailable() from error
                raise
            finally:  # a cancelled call says nothing about the external system: another call may try
                self._trying = self._trying and not trying
            self._count(None)
            return answer

    def _count(self, error: StepError | None) -> None:
        self._circuit.__exit__(type(error) if error else None, error, None)
        if self._circuit.opened and self._since is None:
            self._since = time.monotonic()
            self._on_change(str(error))
        elif self._circuit.closed and self._since is not None:
            self._since = None
            self._on_change(None)

    def _unavailable(self) -> StepError:
        """Makes the error. The pause grows with the outage, so that postponed instances do not keep the
        workers busy."""
        outage = time.monotonic() - self._since if self._since is not None else 0.0
        return self._unavailable_error(max(self._pause, min(_LONGEST_PAUSE, outage)))
