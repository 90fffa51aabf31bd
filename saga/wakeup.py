"""Wakes up waiting processes with PostgreSQL's NOTIFY, sent in the transaction that causes it.

A notification is a hint and may be missed: waiting processes also poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from saga.cancelling import cancel_and_wait
from saga.configuration import config
from saga.connections import LimitedAsyncConnection, LimitedConnection, answered_within
from saga.database import connect_args

WAITING = "orders_waiting"
"""Channel: instances were submitted or released."""
FINISHED = "orders_finished"
"""Channel: instances reached their outcomes."""
CONSUMING = 7_236_115
"""The advisory lock that all running consumers share."""
STARTING_CONSUMER = 7_236_116
"""The advisory lock of the process that is starting a consumer."""
_QUIET_SECONDS = 30
"""Seconds without a notification after which the connection is checked."""
_ANSWER_SECONDS = 10
"""Limits the wait for an answer on the connection, in seconds."""


def plain_url() -> str:
    """Returns the database's address in psycopg's own form."""
    return config().database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def _arguments() -> dict[str, Any]:
    return connect_args(config().database_url, autocommit=True)


class Listener:
    """An event that is set by notifications."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()

    def notify(self) -> None:
        self._notified.set()

    async def wait(self, seconds: float) -> bool:
        """Waits up to this time for a notification. Returns whether there was one, also one that came before
        the call."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        notified = self._notified.is_set()
        self._notified.clear()
        return notified


@asynccontextmanager
async def listening(channel: str, *, consuming: bool = False) -> AsyncIterator[Listener]:
    """Yields a `Listener` for the channel's notifications; reconnects when the connection is lost.

    `consuming`: shares the advisory lock that shows other processes that a consumer runs.
    """
    listener = Listener()
    ready = asyncio.Event()
    task = asyncio.create_task(_listen(channel, listener, ready, consuming), name=f"listen-{channel}")
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await ready.wait()
    try:
        yield listener
    finally:
        await cancel_and_wait([task])


async def _listen(channel: str, listener: Listener, ready: asyncio.Event, consuming: bool) -> None:
    while True:
        try:
            async with await LimitedAsyncConnection.connect(plain_url(), **_arguments()) as connection:
                with answered_within(_ANSWER_SECONDS):
                    if consuming:
                        await connection.execute("SELECT pg_advisory_lock_shared(%s)", (CONSUMING,))
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                ready.set()
                listener.notify()  # a notification may have been missed before
                while True:
                    async for _ in connection.notifies(timeout=_QUIET_SECONDS):
                        listener.notify()
                    with answered_within(_ANSWER_SECONDS):  # silence may also mean that the connection is dead
                        await connection.execute("SELECT 1")
        except psycopg.Error:
            await asyncio.sleep(1)  # the database is unavailable or a standby: retry later


@contextmanager
def listening_sync(channel: str) -> Iterator[LimitedConnection]:
    """Yields a connection that listens on the channel, for callers without an event loop: use its
    `notifies(timeout=...)`."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield connection


def is_consumer_running() -> bool:
    """Returns whether any worker's consumer is running now."""
    with answered_within(_ANSWER_SECONDS), LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (CONSUMING,)).fetchone()
        return not (row and row[0])


@contextmanager
def only_one(lock: int) -> Iterator[bool]:
    """Holds the advisory lock while its body runs. Yields False, without waiting, if another process holds
    it."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        with answered_within(_ANSWER_SECONDS):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
        yield bool(row and row[0])
