"""Migrates the database schema to the current version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from saga.database import connect_args
from shop.settings import Settings

_LOCK = 7_236_114
"""The advisory lock that serialises migrations of workers that start at the same time."""


def config(connection: Connection | None = None) -> Config:
    """Returns Alembic's configuration for this project, on an open connection."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    alembic.attributes["connection"] = connection
    return alembic


def revision(connection: Connection) -> str | None:
    """Returns the version of the database's tables; None if there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """Returns the version of the tables that this code needs."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    assert head is not None
    return head


def upgrade(database_url: str) -> None:
    """Runs the missing migrations, if any. Safe to run concurrently."""
    url = Settings(DATABASE_URL=database_url).database_url
    engine = create_engine(url, connect_args=connect_args(url))
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.upgrade(config(connection), "head")
    finally:
        engine.dispose()
