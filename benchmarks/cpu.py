"""CPU time of a measurement: of this process, and of PostgreSQL for our database."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
from sqlalchemy import text

from saga.database import sync_engine
from shop.settings import settings

_BACKENDS = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")


class Cpu:
    """The CPU time since it was created. PostgreSQL's is measured if it runs on this machine; connections
    that are closed meanwhile do not count."""

    def __init__(self) -> None:
        self._own, self._backends = time.process_time(), _backends()

    def per_order(self, orders: int) -> dict[str, float]:
        """Returns the milliseconds for each of this many orders, by the name of the measured value."""
        measured = {"cpu_ms": 1000 * (time.process_time() - self._own) / orders}
        if backends := _backends():
            used = sum(seconds - self._backends.get(pid, 0.0) for pid, seconds in backends.items())
            measured["database_cpu_ms"] = 1000 * used / orders
        return measured


def _backends() -> dict[int, float]:
    """Returns the CPU seconds of each server process of our database, by its id."""
    with sync_engine(settings().database_url).connect() as connection:
        pids = list(connection.execute(_BACKENDS).scalars())
    used: dict[int, float] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.name().startswith("postgres"):
                times = process.cpu_times()
                used[pid] = times.user + times.system
    return used
