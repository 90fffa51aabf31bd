"""Connections to PostgreSQL: one pool for each event loop, one for synchronous callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import orjson
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat
from psycopg.types.array import ListDumper
from psycopg.types.json import set_json_loads
from sqlalchemy import Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shop.points import Effect
from shop.settings import settings

set_json_loads(orjson.loads)

log = logging.getLogger(__name__)
T = TypeVar("T")


class _ListDumper(ListDumper):
    """Lists of text or of integers as PostgreSQL's array literal, ten times faster than element by element.

    Batches send hundreds of ids in every statement.
    """

    def dump(self, obj: list[Any]) -> Buffer | None:
        if all(type(each) is str for each in obj):
            return ("{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in obj) + "}").encode()
        if all(type(each) is int for each in obj):
            return ("{" + ",".join(map(str, obj)) + "}").encode()
        return super().dump(obj)

    def get_key(self, obj: list[Any], format: PyFormat) -> Any:  # noqa: A002  (psycopg's name)
        """One dumper for all lists: statements cast their arrays."""
        return self.cls if all(type(each) in {str, int} for each in obj) else super().get_key(obj, format)

    def upgrade(self, obj: list[Any], format: PyFormat) -> Any:  # noqa: A002
        return self if all(type(each) in {str, int} for each in obj) else super().upgrade(obj, format)


psycopg.adapters.register_dumper(list, _ListDumper)


class NotWritten(Exception):
    """Whoever was writing for others, too, was stopped before the commit."""


Tx = AsyncConnection
"""A connection inside a transaction that the caller commits."""

_pools: WeakSet[QueuePool] = WeakSet()
_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncEngine]] = WeakKeyDictionary()
# Parameters hold customers' data, and errors are logged: so they are hidden from errors.
_AFTER_COMMIT = "after commit"
_OPTIONS: dict[str, Any] = {"hide_parameters": True, "pool_timeout": 30, "connect_args": {"connect_timeout": 5}}


def engine() -> AsyncEngine:
    """The running event loop's pool (connections cannot move between loops)."""
    url = settings().database_url
    pools = _engines.setdefault(asyncio.get_running_loop(), {})
    if url not in pools:
        pools[url] = create_async_engine(url, pool_size=10, max_overflow=10, **_OPTIONS)
        event.listen(pools[url].sync_engine, "connect", _end_when_idle)
        _know(pools[url].sync_engine)
    return pools[url]


def _end_when_idle(connection: Any, _record: object) -> None:
    """A process that is paused in the middle of a transaction, or a machine that is cut off, must not hold its locks for longer than
    its lease: the server ends the transaction."""
    milliseconds = max(1000, int(settings().lease_seconds * 1000))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    cursor.close()
    connection.autocommit = False


async def close_engine() -> None:
    """Closes the running loop's pools."""
    for pool in _engines.pop(asyncio.get_running_loop(), {}).values():
        await pool.dispose()


@asynccontextmanager
async def transaction(commit: Effect | None = None) -> AsyncIterator[Tx]:
    """Commits at the end, rolls back on any exception. What it raises at commit leaves the result unclear. `commit`: names the points
    before and after it; not for what only reads."""
    async with engine().connect() as connection:
        after: list[Callable[[], None]] = []
        connection.info[_AFTER_COMMIT] = after
        async with connection.begin() as running:
            yield connection
            with commit or nullcontext():
                await running.commit()
    for call in after:
        call()


def after_commit(tx: Tx, call: Callable[[], None]) -> None:
    """Calls it once the transaction's commit is certain, and not otherwise."""
    tx.info[_AFTER_COMMIT].append(call)


@lru_cache
def sync_engine(url: str) -> Engine:
    """The pool of callers without an event loop."""
    made = create_engine(url, pool_size=5, pool_pre_ping=True, **_OPTIONS)
    _know(made)
    return made


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Connections of this process's pools: in use, open, and how many there may be."""

    in_use: int
    open: int
    most: int


def pool_use() -> PoolUse:
    """Of this moment; may be asked from any thread."""
    pools = list(_pools)
    in_use = sum(pool.checkedout() for pool in pools)
    return PoolUse(
        in_use, in_use + sum(pool.checkedin() for pool in pools), sum(pool.size() + max(pool._max_overflow, 0) for pool in pools)
    )


def _know(engine: Engine) -> None:
    if isinstance(engine.pool, QueuePool):
        _pools.add(engine.pool)


def is_database_trouble(error: BaseException) -> bool:
    """Whether the database, not the order, is at fault, so that trying again later can help: a lost or refused connection,
    a shutdown, a deadlock, a full pool. Not: bad data or wrong SQL."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, NotWritten)


async def patiently(doing: Callable[[], Awaitable[T]], *, seconds: float | None = None) -> T:
    """Does it, and while the database is in trouble does it again, for so many seconds (None: for as long as it takes). Only for what may
    be done twice: the trouble may be that the answer was lost."""
    loop, pause = asyncio.get_running_loop(), 0.1
    end = None if seconds is None else loop.time() + seconds
    while True:
        try:
            return await doing()
        except Exception as error:
            if not is_database_trouble(error) or (end is not None and loop.time() + pause > end):
                raise
            log.warning("the database is away (%s); trying again", type(error).__name__)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2)


def as_json(rows: Sequence[dict[str, Any]] | dict[str, Any] | list[str]) -> str:
    """For a `CAST(:rows AS jsonb)` parameter: set-based SQL takes all its rows in one. Decimals travel as text."""
    return orjson.dumps(rows, default=str).decode()
