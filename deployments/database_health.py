"""Whether the database can be used: what a role needs to be ready."""

from __future__ import annotations

from sqlalchemy import text

from saga.database import is_database_error, transaction


async def why_unusable(seconds: float) -> str | None:
    """Returns why nothing can be written to the database; None: it can. Waits for it no longer than this."""
    try:
        async with transaction(seconds=seconds) as tx:
            is_read_only = (await tx.execute(text("SHOW transaction_read_only"))).scalar_one() == "on"
    except Exception as error:
        if not is_database_error(error):
            raise
        return "the database does not answer"
    return "the database is read-only" if is_read_only else None
