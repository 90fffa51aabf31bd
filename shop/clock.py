"""The database's clock, by which everything is measured that one machine writes and another compares: clocks of machines are wrong and
jump. What begins and ends in one process is measured by `time.monotonic`; times that are only shown may be the machine's own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from shop.connections import answered_within
from shop.database import TRANSACTION_SECONDS, Tx, sync_engine, transaction
from shop.settings import settings

_NOW = text("SELECT clock_timestamp()")
_BEGAN = text("SELECT now()")
Now = Callable[[], Awaitable[datetime]]
"""Asks what time it is."""


async def database_time() -> datetime:
    """What time it is. Raises database trouble."""
    async with transaction() as tx:
        now: datetime = (await tx.execute(_NOW)).scalar_one()
    return now


def database_time_sync() -> datetime:
    """The same for callers without an event loop."""
    with answered_within(TRANSACTION_SECONDS), sync_engine(settings().database_url).connect() as connection:
        now: datetime = connection.execute(_NOW).scalar_one()
    return now


async def begin_of(tx: Tx) -> datetime:
    """When the transaction began: the default of all its rows' times."""
    began: datetime = (await tx.execute(_BEGAN)).scalar_one()
    return began


async def machine_time() -> datetime:
    """By this machine's clock, for those who have no database."""
    return datetime.now(UTC)


class Clock:
    """The database's clock, read once and counted on for a few minutes, for those who need the time often."""

    def __init__(self, now: datetime) -> None:
        self._now, self._read_at = now, time.monotonic()

    def now(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._read_at)
