"""Connection pools to PostgreSQL, one for each event loop and one for synchronous callers; transactions and
error classification."""

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

from saga.configuration import config
from saga.connections import (
    TCP,
    LimitedAsyncConnection,
    LimitedConnection,
    NoAnswer,
    answered_within,
    seconds_left,
    waiting,
)
from saga.failpoints import Failpoint

set_json_loads(orjson.loads)

log = logging.getLogger(__name__)
T = TypeVar("T")


_TEXT_OR_INTEGERS = frozenset({str, int})


class _ListDumper(ListDumper):
    """Dumps lists of text or integers as PostgreSQL's array literal, ten times faster than element by
    element.

    Batches send hundreds of ids in every statement.
    """

    def dump(self, obj: list[Any]) -> Buffer | None:
        kinds = set(map(type, obj))
        if kinds == {str} and not any("\0" in each for each in obj):
            joined = "\0".join(obj).replace("\\", "\\\\").replace('"', '\\"')
            return ('{"' + joined.replace("\0", '","') + '"}').encode()
        if kinds == {int}:
            return ("{" + ",".join(map(str, obj)) + "}").encode()
        return b"{}" if not obj else super().dump(obj)

    def get_key(self, obj: list[Any], format: PyFormat) -> Any:  # noqa: A002  (psycopg's name)
        """Returns the same dumper for all lists: statements cast their arrays."""
        return self.cls if _TEXT_OR_INTEGERS.issuperset(map(type, obj)) else super().get_key(obj, format)

    def upgrade(self, obj: list[Any], format: PyFormat) -> Any:  # noqa: A002
        return self if _TEXT_OR_INTEGERS.issuperset(map(type, obj)) else super().upgrade(obj, format)


psycopg.adapters.register_dumper(list, _ListDumper)


class NotWritten(Exception):
    """A task that writes for other tasks was stopped before its commit."""


Tx = AsyncConnection
"""A connection inside a transaction that the caller commits."""

_pools: WeakSet[QueuePool] = WeakSet()
_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncEngine]] = WeakKeyDictionary()
_AFTER_COMMIT = "after commit"
_OPTIONS: dict[str, Any] = {"pool_timeout": 30}
TRANSACTION_SECONDS = 30.0
"""Default limit of a transaction, in seconds."""
_STATEMENT_SECONDS = 180
"""Limits a statement on the server, in seconds, for clients that are gone: longer than any client's limit."""

_SERVER_ERROR_CLASSES = frozenset({"08", "28", "40", "53", "55", "57", "58", "72", "F0", "XX"})
"""SQLSTATE classes of errors that concern the server, never an instance: connection, authorization,
serialization, resources, object state, operator intervention, system error, snapshot too old, configuration,
internal error."""
_SERVER_ERROR_STATES = frozenset(
    {
        "25006",  # the server is read-only: a demoted primary, or a standby
        "25P03",  # the server ended a transaction that was idle for too long
        "25P04",  # the server ended a transaction that took too long
        "26000",  # the prepared statement is on another connection: a pooler in transaction mode
        "42P05",  # the prepared statement belongs to another client: a pooler, too
        "3D000",  # the database does not exist: it is being restored
    }
)
_SCHEMA_STATES = frozenset({"3F000", "42501", "42703", "42704", "42883", "42P01"})
"""SQLSTATEs of tables or privileges that do not match this version: a migration is missing or running."""
_UNUSABLE_STATES = ("08", "25006", "25P03", "25P04", "57P0")
"""SQLSTATE prefixes after which a connection is unusable even if it is still open: the server shuts down or
became read-only."""


def connect_args(url: str, *, seconds: int = 5, **more: Any) -> dict[str, Any]:
    """Returns psycopg's arguments for every connection to this database.

    Statements are not prepared, because behind a pooler that gives each transaction another connection their
    names belong to other clients. Of several hosts, libpq chooses the one that accepts writes. Keep-alive
    options in the address take precedence.
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
    """Makes the engine's pool discard its connections when the server reports that it shuts down or is
    read-only."""
    event.listen(engine, "handle_error", _mark_useless)


def _mark_useless(context: ExceptionContext) -> None:
    if (sqlstate(context.original_exception) or "").startswith(_UNUSABLE_STATES):
        context.is_disconnect = True


def engine() -> AsyncEngine:
    """Returns the running event loop's pool. Connections cannot move between loops."""
    url = config().database_url
    pools = _engines.setdefault(asyncio.get_running_loop(), {})
    if url not in pools:
        pools[url] = new_async_engine(url, pool_size=10, max_overflow=10, **_OPTIONS)
        _register_pool(pools[url].sync_engine)
    return pools[url]


def new_async_engine(url: str, **options: Any) -> AsyncEngine:
    """Creates an engine whose connections time out, and whose pool discards unusable ones. Its errors hide
    parameters, which hold customers' data."""
    arguments = connect_args(url, async_creator_fn=LimitedAsyncConnection.connect)
    made = create_async_engine(url, connect_args=arguments, hide_parameters=True, **options)
    event.listen(made.sync_engine, "connect", _limit_on_the_server)
    discard_useless_connections(made.sync_engine)
    return made


def new_engine(
    url: str, *, seconds: int = 5, arguments: dict[str, Any] | None = None, **options: Any
) -> Engine:
    """Creates the same for callers without an event loop. `seconds`: limits connecting. `arguments`: further
    arguments of psycopg."""
    made = create_engine(
        url,
        connect_args=connect_args(url, seconds=seconds, **(arguments or {})),
        hide_parameters=True,
        **options,
    )
    event.listen(made, "do_connect", _connect_limited)
    discard_useless_connections(made)
    return made


def _connect_limited(
    _dialect: object, _record: object, args: Sequence[Any], options: dict[str, Any]
) -> LimitedConnection:
    return LimitedConnection.connect(*args, **options)


def _limit_on_the_server(connection: Any, _record: object) -> None:
    """Makes the server end transactions that are idle for longer than a lease, so that a paused process or a
    disconnected machine does not keep its locks."""
    _set(connection, idle_in_transaction_session_timeout=max(1000, int(config().lease_seconds * 1000)))


def _limit_statements_on_the_server(connection: Any, _record: object) -> None:
    """Limits statements only: a transaction may be idle for a while, for example while files are deleted."""
    _set(connection)


def _set(connection: Any, **milliseconds: int) -> None:
    """Sets limits, and UTC as the zone in which times are returned, whatever the server's is."""
    limits = {"statement_timeout": _STATEMENT_SECONDS * 1000, "TimeZone": "UTC", **milliseconds}
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(
        "SELECT " + ", ".join(f"set_config('{name}', '{limit}', false)" for name, limit in limits.items())
    )
    cursor.close()
    connection.autocommit = False


async def close_engine() -> None:
    """Closes the running event loop's pools."""
    for pool in _engines.pop(asyncio.get_running_loop(), {}).values():
        await pool.dispose()


@asynccontextmanager
async def transaction(commit: Failpoint | None = None, *, seconds: float | None = None) -> AsyncIterator[Tx]:
    """Opens a transaction; commits at the end, rolls back on any exception. An error that the commit raises
    leaves the result unclear.

    `commit`: the failpoint of the commit; omit it for transactions that only read. `seconds` (None:
    `TRANSACTION_SECONDS`): limits the whole transaction, including the wait for a connection; after it a
    database error is raised, even if the server does not respond. Infinite: each answer is limited by
    `ANSWER_SECONDS` alone.
    """
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
    """Returns a connection of the pool, which the stack returns to it. Raises `NoAnswer` if none is available
    in time."""
    seconds = max(0.0, seconds_left())
    try:
        async with asyncio.timeout(seconds):
            return await stack.enter_async_context(engine().connect())
    except TimeoutError as error:
        raise NoAnswer(f"no connection to the database within {seconds:.1f} s") from error


def after_commit(tx: Tx, call: Callable[[], None]) -> None:
    """Calls the function after the transaction's commit succeeded, and only then."""
    tx.info[_AFTER_COMMIT].append(call)


@lru_cache
def sync_engine(url: str) -> Engine:
    """Returns the pool for callers without an event loop."""
    made = new_engine(url, pool_size=5, pool_pre_ping=True, **_OPTIONS)
    event.listen(made, "connect", _limit_statements_on_the_server)
    _register_pool(made)
    return made


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Connections of this process's pools: in use, open, and the most that may be open."""

    in_use: int
    open: int
    most: int


def pool_use() -> PoolUse:
    """Returns the current use of the pools; callable from any thread."""
    pools = list(_pools)
    in_use = sum(pool.checkedout() for pool in pools)
    return PoolUse(
        in_use,
        in_use + sum(pool.checkedin() for pool in pools),
        sum(pool.size() + max(pool._max_overflow, 0) for pool in pools),
    )


def _register_pool(engine: Engine) -> None:
    if isinstance(engine.pool, QueuePool):
        _pools.add(engine.pool)


def sqlstate(error: BaseException) -> str | None:
    """Returns the server's code for the error, whether psycopg or SQLAlchemy raised it; None if the server
    gave none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (cause.sqlstate or cause.diag.sqlstate) if isinstance(cause, psycopg.Error) else None


def is_server_error_state(state: str) -> bool:
    """Returns whether this SQLSTATE concerns the server, so that a retry can help."""
    return state[:2] in _SERVER_ERROR_CLASSES or state in _SERVER_ERROR_STATES


def is_database_error(error: BaseException) -> bool:
    """Returns whether the database, not an instance, is at fault, so that a retry can help: a lost or refused
    connection, a shutdown, a read-only server, a deadlock, a full disk or pool. False for bad data and wrong
    SQL."""
    if isinstance(error, PoolTimeout | PendingRollbackError | NotWritten):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if (state := sqlstate(error)) is not None:
        return is_server_error_state(state)
    # An error without a code comes from the client: the server is unreachable, or the connection was lost.
    cause = error.orig if isinstance(error, DBAPIError) else error
    lost = OperationalError | InterfaceError | psycopg.OperationalError | psycopg.InterfaceError
    return isinstance(error, lost) or type(cause) is psycopg.DatabaseError


def is_unreachable(error: BaseException) -> bool:
    """Returns whether the database is unreachable or does not respond. An error that it reports may be caused
    by a single row, whatever its code."""
    return is_database_error(error) and sqlstate(error) is None


def is_schema_mismatch(error: BaseException) -> bool:
    """Returns whether the database lacks tables, columns, functions or privileges that this version needs. No
    instance is at fault."""
    return sqlstate(error) in _SCHEMA_STATES


async def retry_while_database_down(
    function: Callable[[], Awaitable[T]], *, seconds: float | None = None
) -> T:
    """Calls the function, and again while it raises database errors, until it succeeds or `seconds` (None: no
    limit) have passed; they limit the waits for answers, too. The function must be idempotent: an error may
    mean that only the answer was lost."""
    loop, pause = asyncio.get_running_loop(), 0.1
    end = None if seconds is None else loop.time() + seconds
    while True:
        try:
            with nullcontext() if end is None else answered_within(end - loop.time()):
                return await function()
        except Exception as error:
            if not is_database_error(error) or (end is not None and loop.time() + pause > end):
                raise
            log.warning("the database is unavailable (%s); retrying", type(error).__name__)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2)


def as_json(rows: Sequence[dict[str, Any]] | dict[str, Any] | list[str]) -> str:
    """Serializes a `CAST(:rows AS jsonb)` parameter, which holds all rows of a set-based statement. Decimals
    become text."""
    return orjson.dumps(rows, default=str).decode()
