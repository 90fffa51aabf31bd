"""The database's clock, for every time that one machine writes and another compares, because machines' clocks
are wrong and jump.

Durations within one process use `time.monotonic`. Times that are only shown may come from the machine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from saga.configuration import config
from saga.connections import answered_within
from saga.database import TRANSACTION_SECONDS, Tx, sync_engine, transaction

_NOW = text("SELECT clock_timestamp()")
_BEGAN = text("SELECT now()")
Now = Callable[[], Awaitable[datetime]]
"""Reads the current time."""


async def database_time() -> datetime:
    """Returns the current time. Raises database errors."""
    async with transaction() as tx:
        now: datetime = (await tx.execute(_NOW)).scalar_one()
    return now


def database_time_sync() -> datetime:
    """Returns the current time, for callers without an event loop."""
    with answered_within(TRANSACTION_SECONDS), sync_engine(config().database_url).connect() as connection:
        now: datetime = connection.execute(_NOW).scalar_one()
    return now


async def begin_of(tx: Tx) -> datetime:
    """Returns when the transaction began, which is the default of its rows' times."""
    began: datetime = (await tx.execute(_BEGAN)).scalar_one()
    return began


async def machine_time() -> datetime:
    """Returns the time of this machine's clock, for callers without a database."""
    return datetime.now(UTC)


class Clock:
    """The database's clock, read once and extrapolated for a few minutes, for callers that need the time
    often."""

    def __init__(self, now: datetime) -> None:
        self._now, self._read_at = now, time.monotonic()

    def now(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._read_at)
