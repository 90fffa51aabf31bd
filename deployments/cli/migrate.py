"""`order-saga migrate`: creates the database of DATABASE_URL if it is missing, and migrates its tables."""

from __future__ import annotations

import sys

from deployments import terminal
from deployments.setup.database import DatabaseUnusable, ensure_database
from shop.settings import settings


def migrate(*, wait: float = 60) -> int:
    """Create the database of DATABASE_URL if it is missing, and migrate its tables. Does nothing if they are
    up to date. Several may run at once: one works, the others wait for it.

    Exit codes: 0; 1, the database cannot be used; 2, a setting is wrong.

    Args:
        wait: Seconds to wait for a database server that is still starting.
    """
    url = settings().database_url
    try:
        with terminal.console(stderr=True).status("Migrating the database ...") as status:
            items = ensure_database(url, apply=True, seconds=wait, say=status.update)
    except DatabaseUnusable as error:
        terminal.write(str(error), sys.stderr)
        return 1
    for item in items:
        terminal.write(f"{item.kind}: {item.name}, {item.change}{f' ({item.note})' if item.note else ''}")
    return 0
