"""Connections to PostgreSQL that do not wait for ever: whoever asks something has an answer, or `NoAnswer`, within a time limit.

The server's own limits (`statement_timeout`) do not help when it is the server that is silent, or a network that lost the connection: so
the client measures. How long a call outside has waited for the database is measured too (`WaitedFor`), for it is no fault of the call.
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
"""Limits the wait for any single answer, where no shorter limit is set."""
_CANCEL_SECONDS = 1.0
"""Limits the request to the server to stop what it was asked for."""
_INTERVAL = 0.1
"""Seconds after which psycopg looks again whether to go on waiting."""
TCP: dict[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""libpq's: a connection whose other end is gone breaks after 25 idle seconds, or 15 (in milliseconds) in which nothing sent arrives."""


class NoAnswer(psycopg.OperationalError):
    """The database gave no answer in time. The result is unclear: what was asked, also a commit, may be done."""


class _Limit:
    """A time (`time.monotonic`) that is only a limit while its block runs: tasks that are started there may live longer."""

    def __init__(self, until: float) -> None:
        self.until = until


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Limits all waits for the database in this block, together. A limit around it still holds."""
    outer = _limit.get()
    limit = _Limit(min(time.monotonic() + seconds, math.inf if outer is None else outer.until))
    _limit.set(limit)
    try:
        yield
    finally:
        limit.until = math.inf
        _limit.set(outer)


def seconds_left() -> float:
    """How long the database may be waited for, from now on."""
    limit = _limit.get()
    return min(ANSWER_SECONDS, math.inf if limit is None else limit.until - time.monotonic())


class WaitedFor:
    """How long a call has waited for the database."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.interrupted = False
        """Whether the call was cancelled while it waited."""
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
    """From here on this task's waits are not those of the call that started it."""
    _waited.set(None)


def _limited(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """The generator, which psycopg resumes every `_INTERVAL` at least; raises `NoAnswer` once the time is over."""
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
    """A connection that is closed once it has waited for longer than `seconds_left`. The server is asked to stop, if it hears."""

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """`timeout`: the caller's own limit, for notifications, which nobody owes."""
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
    """The same for event loops."""

    async def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:  # noqa: ASYNC109  (psycopg's)
        """`timeout`: as above."""
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
        """Asks the server to stop. psycopg calls it when a task is cancelled, and then waits for the end of what was asked: in vain, if the
        server has not even heard this, so the connection is closed."""
        try:
            await super().cancel_safe(timeout=min(timeout, _CANCEL_SECONDS))
        except psycopg.Error:
            await self.close()
            raise
