"""Connections to PostgreSQL with client-side timeouts: every query gets an answer, or raises `NoAnswer`,
within a time limit.

The server's own limits (`statement_timeout`) do not help when the server does not respond, or the network
lost the connection. The module also measures how long an external call has waited for the database
(`WaitedFor`), so that this time is not attributed to the call.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

RV = TypeVar("RV")
ANSWER_SECONDS = 120.0
"""Limits the wait for a single answer, in seconds, unless a shorter limit is set."""
_CANCEL_SECONDS = 1.0
"""Limits a cancel request to the server, in seconds."""
_INTERVAL = 0.1
"""Seconds between psycopg's checks whether to continue waiting."""
TCP: dict[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Options of libpq: a connection whose other end is gone breaks after 25 idle seconds, or after 15 seconds
(given in milliseconds) in which sent data is not acknowledged."""


class NoAnswer(psycopg.OperationalError):
    """The database did not answer in time. The result is unclear: the statement, even a commit, may have been
    executed."""


class _Limit:
    """A deadline (`time.monotonic`) that holds only while its block runs: tasks that the block starts may
    outlive it."""

    def __init__(self, until: float) -> None:
        self.until = until


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Limits the total time of the block's waits for the database. An outer limit still holds."""
    outer = _limit.get()
    limit = _Limit(min(time.monotonic() + seconds, math.inf if outer is None else outer.until))
    _limit.set(limit)
    try:
        yield
    finally:
        limit.until = math.inf
        _limit.set(outer)


def seconds_left() -> float:
    """Returns how many seconds a wait for the database may last from now on."""
    limit = _limit.get()
    return min(ANSWER_SECONDS, math.inf if limit is None else limit.until - time.monotonic())


class WaitedFor:
    """Measures how long a call has waited for the database."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.interrupted = False
        """Whether the call was cancelled while it was waiting."""
        self._depth, self._since = 0, 0.0

    def begin(self) -> None:
        if self._depth == 0:
            self._since = time.monotonic()
        self._depth += 1

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.monotonic() - self._since


_waited: ContextVar[WaitedFor | None] = ContextVar("waited", default=None)


@contextmanager
def measuring_waits() -> Iterator[WaitedFor]:
    """Measures how long the block, with the tasks that it starts, waits for the database."""
    outer, waited = _waited.get(), WaitedFor()
    _waited.set(waited)
    try:
        yield waited
    finally:
        _waited.set(outer)


@contextmanager
def waiting() -> Iterator[None]:
    """Counts the block as a wait for the database."""
    if (waited := _waited.get()) is None:
        yield
        return
    waited.begin()
    try:
        yield
    except asyncio.CancelledError:
        waited.interrupted = True
        raise
    finally:
        waited.end()


def wait_for_others() -> None:
    """Stops counting this task's waits for the call that started it."""
    _waited.set(None)


def _limited(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """Wraps a generator, which psycopg resumes at least every `_INTERVAL`; raises `NoAnswer` when the time is
    over."""
    until = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= until:
                raise NoAnswer(f"the database gave no answer within {max(seconds, 0):.1f} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        value: RV = end.value
        return value


class LimitedConnection(psycopg.Connection[TupleRow]):
    """A connection that closes when it has waited longer than `seconds_left`, after it asked the server to
    cancel the statement."""

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """`timeout`: the caller's own limit, for notifications, which may never come."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(_limited(gen, seconds_left()), interval)
        except NoAnswer:
            try:
                with suppress(psycopg.Error):
                    self.cancel_safe(timeout=_CANCEL_SECONDS)
            finally:
                self.close()
            raise


class LimitedAsyncConnection(psycopg.AsyncConnection[TupleRow]):
    """The same as `LimitedConnection`, for event loops."""

    async def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:  # noqa: ASYNC109  (psycopg's)
        """`timeout`: see `LimitedConnection.wait`."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(_limited(gen, seconds_left()), interval)
        except NoAnswer:
            try:
                with suppress(psycopg.Error):
                    await self.cancel_safe(timeout=_CANCEL_SECONDS)
            finally:
                await self.close()
            raise

    async def cancel_safe(self, *, timeout: float = _CANCEL_SECONDS) -> None:  # noqa: ASYNC109  (psycopg's)
        """Asks the server to cancel the statement; closes the connection if the request fails.

        psycopg calls this when a task is cancelled, and then waits for the statement to end, which never
        happens if the server did not receive the request.
        """
        try:
            await super().cancel_safe(timeout=min(timeout, _CANCEL_SECONDS))
        except psycopg.Error:
            await self.close()
            raise
