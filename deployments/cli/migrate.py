"""`order-saga migrate`: migrates the tables of DATABASE_URL."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from deployments import terminal
from saga.database import is_database_error
from shop.runtime.migrate import upgrade
from shop.settings import settings


def migrate() -> None:
    """Migrate the tables of DATABASE_URL. Does nothing if they are up to date.

    Exit codes: 0; 1, the database cannot be used; 2, a setting is wrong.
    """
    try:
        upgrade(settings().database_url)
    except DBAPIError as error:
        if not is_database_error(error):
            raise
        raise SystemExit(
            f"the database at DATABASE_URL cannot be used: {str(error.orig).splitlines()[0]}"
        ) from None
    terminal.write("the tables are up to date")
