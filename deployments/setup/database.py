"""The database of `DATABASE_URL` and its tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from deployments.setup.server import Change, Item
from saga.database import connect_args, is_database_error, sqlstate
from shop.runtime.migrate import newest_revision, revision, upgrade
from shop.settings import at

_MAINTENANCE = "postgres"
"""The database in which another one is created; every PostgreSQL server has it unless somebody dropped it."""
_PAUSE_SECONDS = 0.5
"""Interval between two attempts to connect."""
_NOT_PERMITTED = "42501"
"""The SQLSTATE of insufficient privileges."""
_CREATING, _SETTING_UP = 7_236_115, 7_236_118
"""Advisory locks: of creating the database, and of everything that `order-saga setup` does. No other lock may
have these numbers: `shop.monitoring.traces` holds 7_236_116 as long as a worker runs."""


class DatabaseUnusable(Exception):
    """The database does not answer, or is missing and may not be created: the message says what and why."""


def ensure_database(
    url: str, *, apply: bool, seconds: float, say: Callable[[str], None] = lambda _: None
) -> list[Item]:
    """Creates the database if it is missing, and migrates its tables; `apply` false: only compares.

    Waits up to `seconds` for a server that is still starting, and calls `say` with why. Idempotent, and safe
    to run concurrently. Raises `DatabaseUnusable`.
    """
    url = at(url).database_url
    name = make_url(url).database or ""
    if is_there := _wait(url, name, seconds, say):
        created = Change.UNCHANGED
    elif apply:
        created = Change.CREATED if _create(url, name) else Change.UNCHANGED
    else:
        created = Change.MISSING
    return [
        Item("database", _where(url), created),
        _ensure_tables(url, apply=apply, is_there=is_there or apply),
    ]


@contextmanager
def only_one_sets_up(url: str) -> Iterator[None]:
    """Waits until no other process is inside such a block for the same database."""
    with (
        _engine(at(url).database_url) as engine,
        engine.connect() as connection,
        _locked(connection, _SETTING_UP),
    ):
        yield


def _ensure_tables(url: str, *, apply: bool, is_there: bool) -> Item:
    before, newest = (_revision(url) if is_there else None), newest_revision()
    if before == newest:
        return Item("tables", newest, Change.UNCHANGED)
    note = f"they were at {before}" if before else ""
    if not apply:
        return Item(
            "tables", newest, Change.DIFFERS if before else Change.MISSING, note.replace("were", "are")
        )
    try:
        upgrade(url)
    except CommandError as error:
        raise DatabaseUnusable(
            f"the tables of {_where(url)} are at {before}, which this version does not know: "
            f"a newer version has migrated them ({error})"
        ) from None
    except DBAPIError as error:
        if not (is_database_error(error) or sqlstate(error) == _NOT_PERMITTED):
            raise
        raise DatabaseUnusable(
            f"the tables of {_where(url)} cannot be migrated: {_reason(error)}. "
            "The user of DATABASE_URL has to own them, and the database for a first migration"
        ) from None
    return Item("tables", newest, Change.UPDATED if before else Change.CREATED, note)


def _revision(url: str) -> str | None:
    with _engine(url) as engine, engine.connect() as connection:
        return revision(connection)


def _wait(url: str, name: str, seconds: float, say: Callable[[str], None]) -> bool:
    """Waits until the server accepts connections. Returns whether the database exists."""
    end = time.monotonic() + seconds
    while True:
        try:
            with _engine(url) as engine, engine.connect():
                return True
        except DBAPIError as error:
            # A failed connection has no error code, and its text is in the server's language.
            if _lacks(url, name):
                return False
            why = f"the database {_where(url)} cannot be used: {_reason(error)}"
            if time.monotonic() > end:
                raise DatabaseUnusable(why) from None
            say(why)
        time.sleep(_PAUSE_SECONDS)


def _lacks(url: str, name: str) -> bool:
    """Returns whether the server answers and has no database of this name."""
    try:
        with _maintenance(url) as connection:
            return not _exists(connection, name)
    except DBAPIError:
        return False


def _create(url: str, name: str) -> bool:
    """Creates the database. Returns False if another process did it before."""
    try:
        # No other process may be creating it: two at once can fail with any of three errors.
        with _maintenance(url) as connection, _locked(connection, _CREATING):
            if _exists(connection, name):
                return False
            quoted = connection.dialect.identifier_preparer.quote_identifier(name)
            connection.execute(text(f"CREATE DATABASE {quoted}"))
            return True
    except DBAPIError as error:
        raise DatabaseUnusable(
            f"the database {_where(url)} does not exist and cannot be created: {_reason(error)}. "
            "Create it, or permit the user of DATABASE_URL to (CREATEDB)"
        ) from None


def _exists(connection: Connection, name: str) -> bool:
    found = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name})
    return found.first() is not None


@contextmanager
def _maintenance(url: str) -> Iterator[Connection]:
    there = make_url(url).set(database=_MAINTENANCE).render_as_string(hide_password=False)
    with _engine(there) as engine, engine.connect() as connection:
        yield connection


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = create_engine(
        url, connect_args=connect_args(url), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _locked(connection: Connection, lock: int) -> Iterator[None]:
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": lock})
    try:
        yield
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": lock})


def _where(url: str) -> str:
    parsed = make_url(url)
    return f"{parsed.database} at {parsed.query.get('host', parsed.host or 'localhost')}"


def _reason(error: DBAPIError) -> str:
    """Returns the driver's own words, which contain no password."""
    return " ".join(str(error.orig).split())
