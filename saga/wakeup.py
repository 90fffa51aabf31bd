"""Wakes up waiting processes with PostgreSQL's NOTIFY, sent in the transaction that causes it.

A notification is a hint and may be missed: waiting processes also poll. Each saga has channels and advisory
locks of its own, which derive from the name of its table of instances, so that sagas in the same database do
not wake or block each other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import TextClause, text

from saga.asyncio_tasks import cancel_and_wait
from saga.configuration import config
from saga.connections import LimitedAsyncConnection, LimitedConnection, answered_within
from saga.database import connect_args, sync_engine
from saga.store import SagaStore


class Event(StrEnum):
    """What a process can wait for."""

    WAITING = "waiting"
    """Instances were submitted or released."""
    FINISHED = "finished"
    """Instances reached their outcomes."""


WAITING, FINISHED = Event
_CONSUMING = "consuming"
"""Names the advisory lock that all running consumers of a saga share."""
_STARTING = "starting a consumer"
"""Names the advisory lock of the process that is starting a consumer."""
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:number)")
_QUIET_SECONDS = 30
"""Seconds without a notification after which the connection is checked."""
_ANSWER_SECONDS = 10
"""Limits the wait for an answer on the connection, in seconds."""


def channel(store: SagaStore[Any], event: Event) -> str:
    """Returns the name of the saga's channel for the event."""
    return f"{store.instances}_{event}"


def notification(store: SagaStore[Any], event: Event) -> TextClause:
    """Returns the statement that notifies the processes that wait for the event, once its transaction
    commits."""
    return text("SELECT pg_notify(:channel, '')").bindparams(channel=channel(store, event))


def lock_number(store: SagaStore[Any], purpose: str) -> int:
    return int.from_bytes(
        hashlib.sha256(f"{store.instances} {purpose}".encode()).digest()[:8], "big", signed=True
    )


def plain_url() -> str:
    """Returns the database's address in psycopg's own form."""
    return config().database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def _arguments() -> dict[str, Any]:
    return connect_args(config().database_url, autocommit=True)


class Listener:
    """An event that is set by notifications."""

    def __init__(self, connect: Callable[[], None] | None = None) -> None:
        """`connect`: is called by the first wait."""
        self._notified, self._connect = asyncio.Event(), connect

    def notify(self) -> None:
        self._notified.set()

    async def wait(self, seconds: float) -> bool:
        """Waits up to this time for a notification. Returns whether there was one, also one that came before
        the call."""
        if self._connect is not None:
            self._connect()
            self._connect = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        notified = self._notified.is_set()
        self._notified.clear()
        return notified


@asynccontextmanager
async def listening(
    store: SagaStore[Any], event: Event, *, consuming: bool = False
) -> AsyncIterator[Listener]:
    """Yields a `Listener` for the event; reconnects when the connection is lost.

    `consuming`: shares the advisory lock that shows other processes that a consumer runs.
    """
    listener = Listener()
    ready = asyncio.Event()
    task = _start_listening(store, event, listener, ready, consuming)
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await ready.wait()
    try:
        yield listener
    finally:
        await cancel_and_wait([task])


@asynccontextmanager
async def listening_when_waiting(store: SagaStore[Any], event: Event) -> AsyncIterator[Listener]:
    """Yields a `Listener` that connects when it is first waited for, which most runs of one instance never
    do. The first wait ends when it is connected: whoever waits looks again."""
    tasks: list[asyncio.Task[None]] = []

    def connect() -> None:
        tasks.append(_start_listening(store, event, listener, asyncio.Event(), consuming=False))

    listener = Listener(connect)
    try:
        yield listener
    finally:
        await cancel_and_wait(tasks)


def _start_listening(
    store: SagaStore[Any], event: Event, listener: Listener, ready: asyncio.Event, consuming: bool
) -> asyncio.Task[None]:
    return asyncio.create_task(
        _listen(store, event, listener, ready, consuming), name=f"listen-{channel(store, event)}"
    )


async def _listen(
    store: SagaStore[Any], event: Event, listener: Listener, ready: asyncio.Event, consuming: bool
) -> None:
    while True:
        try:
            async with await LimitedAsyncConnection.connect(plain_url(), **_arguments()) as connection:
                with answered_within(_ANSWER_SECONDS):
                    if consuming:
                        await connection.execute(
                            "SELECT pg_advisory_lock_shared(%s)", (lock_number(store, _CONSUMING),)
                        )
                    await connection.execute(_listen_statement(store, event))
                ready.set()
                listener.notify()  # a notification may have been missed before
                while True:
                    async for _ in connection.notifies(timeout=_QUIET_SECONDS):
                        listener.notify()
                    # Silence may also mean that the connection is dead.
                    with answered_within(_ANSWER_SECONDS):
                        await connection.execute("SELECT 1")
        except psycopg.Error:
            await asyncio.sleep(1)  # the database is unavailable or a standby: retry later


@contextmanager
def listening_sync(store: SagaStore[Any], event: Event) -> Iterator[LimitedConnection]:
    """Yields a connection that listens for the event, for callers without an event loop: use its
    `notifies(timeout=...)`."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        connection.execute(_listen_statement(store, event))
        yield connection


def _listen_statement(store: SagaStore[Any], event: Event) -> sql.Composed:
    return sql.SQL("LISTEN {}").format(sql.Identifier(channel(store, event)))


def is_consumer_running(store: SagaStore[Any]) -> bool:
    """Returns whether any worker's consumer of this saga is running now."""
    with (
        answered_within(_ANSWER_SECONDS),
        sync_engine(config().database_url).begin() as connection,
    ):
        # the lock that this takes if no consumer holds it ends with the transaction
        return not connection.execute(_TRY_LOCK, {"number": lock_number(store, _CONSUMING)}).scalar_one()


@contextmanager
def starting_consumer(store: SagaStore[Any]) -> Iterator[bool]:
    """Holds the lock of the process that is starting a consumer while its body runs. Yields False, without
    waiting, if another process holds it."""
    with LimitedConnection.connect(plain_url(), **_arguments()) as connection:
        with answered_within(_ANSWER_SECONDS):
            row = connection.execute(
                "SELECT pg_try_advisory_lock(%s)", (lock_number(store, _STARTING),)
            ).fetchone()
        yield bool(row and row[0])
