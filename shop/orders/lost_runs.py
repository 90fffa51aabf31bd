"""How far runs that died before they stored their order have been looked for. What such a run was to do is in its parameters only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from saga.database import transaction

OVERLAP = timedelta(hours=1)
"""Each search goes back this far behind the last one: clocks of machines differ, and an end may be reported long after it happened."""
_READ = text("SELECT since, searched_until, now() AS now FROM lost_run_search WHERE id = 1")
_ADVANCE = text("UPDATE lost_run_search SET searched_until = greatest(searched_until, :until) WHERE id = 1")


@dataclass(frozen=True, slots=True)
class Search:
    """What the next search looks at."""

    since: datetime
    """Runs that were made before this time are not looked at: this database was not there yet."""
    ended_after: datetime
    """Runs that ended before this time have been looked at."""
    now: datetime
    """The database's time as the search begins."""


async def next_search() -> Search:
    """Where to search."""
    async with transaction() as tx:
        row = (await tx.execute(_READ)).one()
    return Search(row.since, max(row.since, row.searched_until - OVERLAP), row.now)


async def searched(search: Search) -> None:
    """Remembers that everything that had ended when the search began has been looked at."""
    async with transaction() as tx:  # no point for crash tests: a search that is not remembered is made again, and stores nothing twice
        await tx.execute(_ADVANCE, {"until": search.now})
