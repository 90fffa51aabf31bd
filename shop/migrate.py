"""Brings a database's schema up to date: `python -m shop.migrate` does it for `DATABASE_URL`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from pydantic import ValidationError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from shop.database import connect_args, is_database_trouble
from shop.settings import Settings, settings, what_is_wrong

_LOCK = 7_236_114  # one migration at a time, however many workers start


def config(connection: Connection) -> Config:
    """Alembic's configuration for this project, on an open connection."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    alembic.attributes["connection"] = connection
    return alembic


def upgrade(database_url: str) -> None:
    """Runs the migrations that are missing; does nothing when there are none. Safe to run side by side."""
    url = Settings(database_url=database_url).database_url
    engine = create_engine(url, connect_args=connect_args(url))
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.upgrade(config(connection), "head")
    finally:
        engine.dispose()


def main(called: str = "python -m shop.migrate") -> None:
    """Raises SystemExit with a line that says what was wrong, and where."""
    argparse.ArgumentParser(prog=called, description="Brings the schema of DATABASE_URL up to date.").parse_args()
    try:
        upgrade(settings().database_url)
    except ValidationError as error:
        raise SystemExit(what_is_wrong(error)) from None
    except DBAPIError as error:
        if not is_database_trouble(error):
            raise
        raise SystemExit(f"the database that DATABASE_URL names cannot be used: {str(error.orig).splitlines()[0]}") from None
    sys.stdout.write("the tables are up to date\n")


if __name__ == "__main__":
    main()
