"""Waking those who wait: PostgreSQL's NOTIFY, in the transaction that gives the reason.

A signal is a hint and may be missed; whoever waits also looks for himself now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from shop.cancelling import cancel
from shop.connections import LimitedAsyncConnection, LimitedConnection, answered_within
from shop.database import connect_args
from shop.settings import settings

WAITING = "orders_waiting"
"""Orders have come in."""
FINISHED = "orders_finished"
"""Orders have reached an outcome."""
DRAINING = 7_236_115
"""The advisory lock that every running drain shares: held by nobody, there is none."""

STARTING_CONSUMER = 7_236_116
"""The advisory lock of whoever starts a consumer just now."""
_QUIET_SECONDS = 30
"""Seconds without a notification after which the connection is checked."""
_ANSWER_SECONDS = 10
"""Limits the wait for its answer."""


def plain_url() -> str:
    """The database's address for psycopg itself."""
    return settings().database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def _arguments() -> dict[str, Any]:
    return connect_args(settings().database_url, autocommit=True)


class Bell:
    """Set when a signal came in."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, seconds: float) -> bool:
        """Waits for a signal, at most so long. True if there was one (also one from before)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        rung = self._rung.is_set()
        self._rung.clear()
        return rung


@asynccontextmanager
async def listening(channel: str, *, draining: bool = False) -> AsyncIterator[Bell]:
    """Rings while the body runs. `draining`: tells others that a drain is at work. A lost connection is made again."""
    bell = Bell()
    ready = asyncio.Event()
    ear = asyncio.create_task(_listen(channel, bell, ready, draining), name=f"listen-{channel}")
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await ready.wait()
    try:
        yield bell
    finally:
        await cancel([ear])


async def _listen(channel: str, bell: Bell, ready: asyncio.Event, draining: bool) -> None:
    while True:
        try:
            async with await LimitedAsyncConnection.connect(plain_url(), **_arguments()) as connection:
                with answered_within(_ANSWER_SECONDS):
                    if draining:
                        await connection.execute("SELECT pg_advisory_lock_shared(%s)", (DRAINING,))
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                ready.set()
                bell.ring()  # something may have come in before
                while True:
                    async for _ in connection.notifies(timeout=_QUIET_SECONDS):
                        bell.ring()
                    with answered_within(_ANSWER_SECONDS):  # it may only be quiet because nobody is there
                        await connection.execute("SELECT 1")
        except psycopg.Error:
            await asyncio.sleep(1)  # the database is away, or is a standby: there is nothing to listen to


@contextmanager
def listening_sync(channel: str) -> Iterator[LimitedConnection]:
    """A connection that hears the channel, for callers without an event loop: use its `notifies(timeout=...)`."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield connection


def is_anybody_draining() -> bool:
    """Whether some worker's drain is running right now."""
    with answered_within(_ANSWER_SECONDS), LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (DRAINING,)).fetchone()
        return not (row and row[0])


@contextmanager
def only_one(lock: int) -> Iterator[bool]:
    """Holds the advisory lock while its body runs. Yields False, without waiting, if another process holds it."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        with answered_within(_ANSWER_SECONDS):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
        yield bool(row and row[0])
