"""Connections to PostgreSQL: one pool for each event loop, one for synchronous callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
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
from sqlalchemy import Engine, ExceptionContext, QueuePool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shop.connections import TCP, LimitedAsyncConnection, LimitedConnection, NoAnswer, answered_within, seconds_left, waiting
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
_AFTER_COMMIT = "after commit"
_OPTIONS: dict[str, Any] = {"pool_timeout": 30}
TRANSACTION_SECONDS = 30.0
"""Limits a transaction, where the caller gives no other limit."""
_STATEMENT_SECONDS = 180
"""Limits a statement on the server, for clients that are gone: longer than any limit of a client."""

_TROUBLE_CLASSES = frozenset({"08", "28", "40", "53", "55", "57", "58", "72", "F0", "XX"})
"""SQLSTATE classes that say something about the server, never about an order: connection, authorization, serialization,
resources, object state, operator intervention, system error, snapshot too old, configuration, internal error."""
_TROUBLE_STATES = frozenset(
    {
        "25006",  # the server is read-only: a demoted primary, or a standby
        "25P03",  # it ended a transaction that was idle for too long
        "25P04",  # it ended a transaction that took too long
        "26000",  # the prepared statement is on another connection: a pooler in transaction mode
        "42P05",  # the prepared statement is another client's: the same
        "3D000",  # the database is not there: it is being restored
    }
)
_SCHEMA_STATES = frozenset({"3F000", "42501", "42703", "42704", "42883", "42P01"})
"""The tables, or what this role may do with them, are not those of this version: a migration is missing, or under way."""
_USELESS_STATES = ("08", "25006", "25P03", "25P04", "57P0")
"""SQLSTATE prefixes after which a connection is of no use, even if it is still open: the server goes, or may not write any more."""


def connect_args(url: str, *, seconds: int = 5, **more: Any) -> dict[str, Any]:
    """Returns psycopg's arguments for every connection to this database.

    Statements are not prepared: behind a pooler that gives each transaction another connection, their names are other clients'.
    Of several hosts, the one that accepts writes is chosen. What the address says about keep-alives holds.
    """
    parsed = make_url(url)
    tcp = {name: value for name, value in TCP.items() if name not in parsed.query}
    args: dict[str, Any] = {"connect_timeout": seconds, "prepare_threshold": None, **tcp, **more}
    hosts = parsed.query.get("host", ())
    several = len(hosts) > 1 if isinstance(hosts, tuple) else "," in hosts
    if (several or "," in (parsed.host or "")) and "target_session_attrs" not in parsed.query:
        args["target_session_attrs"] = "read-write"
    return args


def discard_useless_connections(engine: Engine) -> None:
    """Lets the engine's pool throw its connections away once the server has said that it goes, or is read-only now."""
    event.listen(engine, "handle_error", _mark_useless)


def _mark_useless(context: ExceptionContext) -> None:
    if (sqlstate(context.original_exception) or "").startswith(_USELESS_STATES):
        context.is_disconnect = True


def engine() -> AsyncEngine:
    """The running event loop's pool (connections cannot move between loops)."""
    url = settings().database_url
    pools = _engines.setdefault(asyncio.get_running_loop(), {})
    if url not in pools:
        pools[url] = new_async_engine(url, pool_size=10, max_overflow=10, **_OPTIONS)
        _know(pools[url].sync_engine)
    return pools[url]


def new_async_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine whose connections do not wait for ever, and are thrown away once they are of no use. Parameters, which hold customers'
    data, are hidden from its errors."""
    arguments = connect_args(url, async_creator_fn=LimitedAsyncConnection.connect)
    made = create_async_engine(url, connect_args=arguments, hide_parameters=True, **options)
    event.listen(made.sync_engine, "connect", _limit_on_the_server)
    discard_useless_connections(made.sync_engine)
    return made


def new_engine(url: str, *, seconds: int = 5, arguments: dict[str, Any] | None = None, **options: Any) -> Engine:
    """The same for callers without an event loop. `seconds`: to connect; `arguments`: more of psycopg's."""
    made = create_engine(url, connect_args=connect_args(url, seconds=seconds, **(arguments or {})), hide_parameters=True, **options)
    event.listen(made, "do_connect", _connect_limited)
    discard_useless_connections(made)
    return made


def _connect_limited(_dialect: object, _record: object, args: Sequence[Any], options: dict[str, Any]) -> LimitedConnection:
    return LimitedConnection.connect(*args, **options)


def _limit_on_the_server(connection: Any, _record: object) -> None:
    """A process that is paused in the middle of a transaction, or a machine that is cut off, must not hold its locks for longer than
    its lease: the server ends the transaction."""
    _set(connection, idle_in_transaction_session_timeout=max(1000, int(settings().lease_seconds * 1000)))


def _limit_statements_on_the_server(connection: Any, _record: object) -> None:
    """Also in transactions that may be idle for a while, such as one during which files are deleted."""
    _set(connection)


def _set(connection: Any, **milliseconds: int) -> None:
    limits = {"statement_timeout": _STATEMENT_SECONDS * 1000, **milliseconds}
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT " + ", ".join(f"set_config('{name}', '{limit}', false)" for name, limit in limits.items()))
    cursor.close()
    connection.autocommit = False


async def close_engine() -> None:
    """Closes the running loop's pools."""
    for pool in _engines.pop(asyncio.get_running_loop(), {}).values():
        await pool.dispose()


@asynccontextmanager
async def transaction(commit: Effect | None = None, *, seconds: float | None = None) -> AsyncIterator[Tx]:
    """Commits at the end, rolls back on any exception. What it raises at commit leaves the result unclear. `commit`: names the points
    before and after it; not for what only reads. `seconds` (None: `TRANSACTION_SECONDS`): for all of it, with the wait for a connection;
    then it raises database trouble, also when the server is silent. Infinite: each answer is limited alone, by `ANSWER_SECONDS`."""
    after: list[Callable[[], None]] = []
    with waiting(), answered_within(TRANSACTION_SECONDS if seconds is None else seconds):
        async with AsyncExitStack() as stack:
            connection = await _connected(stack)
            connection.info[_AFTER_COMMIT] = after
            async with connection.begin() as running:
                yield connection
                with commit or nullcontext():
                    await running.commit()
    for call in after:
        call()


async def _connected(stack: AsyncExitStack) -> Tx:
    """A connection of the pool, which the stack gives back. Raises `NoAnswer` if there is none in time."""
    seconds = max(0.0, seconds_left())
    try:
        async with asyncio.timeout(seconds):
            return await stack.enter_async_context(engine().connect())
    except TimeoutError as error:
        raise NoAnswer(f"no connection to the database within {seconds:.1f} s") from error


def after_commit(tx: Tx, call: Callable[[], None]) -> None:
    """Calls it once the transaction's commit is certain, and not otherwise."""
    tx.info[_AFTER_COMMIT].append(call)


@lru_cache
def sync_engine(url: str) -> Engine:
    """The pool of callers without an event loop."""
    made = new_engine(url, pool_size=5, pool_pre_ping=True, **_OPTIONS)
    event.listen(made, "connect", _limit_statements_on_the_server)
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


def sqlstate(error: BaseException) -> str | None:
    """Returns the server's code for the error, whether psycopg or SQLAlchemy raised it; None if the server gave none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (cause.sqlstate or cause.diag.sqlstate) if isinstance(cause, psycopg.Error) else None


def is_trouble_state(state: str) -> bool:
    """Whether this SQLSTATE is about the server, so that trying again later can help."""
    return state[:2] in _TROUBLE_CLASSES or state in _TROUBLE_STATES


def is_database_trouble(error: BaseException) -> bool:
    """Whether the database, not the order, is at fault, so that trying again later can help: a lost or refused connection,
    a shutdown, a read-only server, a deadlock, a full disk or pool. Not: bad data or wrong SQL."""
    if isinstance(error, PoolTimeout | PendingRollbackError | NotWritten):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if (state := sqlstate(error)) is not None:
        return is_trouble_state(state)
    # Without a code the error is the client's own: the server could not be reached, or was lost.
    cause = error.orig if isinstance(error, DBAPIError) else error
    lost = OperationalError | InterfaceError | psycopg.OperationalError | psycopg.InterfaceError
    return isinstance(error, lost) or type(cause) is psycopg.DatabaseError


def does_not_answer(error: BaseException) -> bool:
    """Whether the database is unreachable or silent. An error that it reports, whatever its code, may be caused by a single row."""
    return is_database_trouble(error) and sqlstate(error) is None


def is_schema_mismatch(error: BaseException) -> bool:
    """Whether the database lacks what this version needs of it: tables, columns, functions, privileges. No order is to blame."""
    return sqlstate(error) in _SCHEMA_STATES


async def patiently(doing: Callable[[], Awaitable[T]], *, seconds: float | None = None) -> T:
    """Does it, and while the database is in trouble does it again, for so many seconds (None: for as long as it takes), in which it waits
    for answers, too. Only for what may be done twice: the trouble may be that the answer was lost."""
    loop, pause = asyncio.get_running_loop(), 0.1
    end = None if seconds is None else loop.time() + seconds
    while True:
        try:
            with nullcontext() if end is None else answered_within(end - loop.time()):
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
