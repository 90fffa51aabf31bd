"""Search position for runs that died before they stored their order. Such an order exists only in its
run's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from saga.database import transaction

OVERLAP = timedelta(hours=1)
"""Overlap with the previous search: machines' clocks differ, and the end of a run may be reported late."""
_READ = text("SELECT since, searched_until, now() AS now FROM lost_run_search WHERE id = 1")
_ADVANCE = text("UPDATE lost_run_search SET searched_until = greatest(searched_until, :until) WHERE id = 1")


@dataclass(frozen=True, slots=True)
class Search:
    """The range of the next search."""

    since: datetime
    """Runs created before this time are ignored: this database did not exist."""
    ended_after: datetime
    """Runs that ended before this time have been searched."""
    now: datetime
    """The database's time when the search begins."""


async def next_search() -> Search:
    """Returns the range of the next search."""
    async with transaction() as tx:
        row = (await tx.execute(_READ)).one()
    return Search(row.since, max(row.since, row.searched_until - OVERLAP), row.now)


async def record_search(search: Search) -> None:
    """Records that the search is complete: runs that had ended when it began are not searched again."""
    # No failpoint: an unrecorded search is repeated, and stores nothing twice.
    async with transaction() as tx:
        await tx.execute(_ADVANCE, {"until": search.now})
