"""CPU time of a measurement: of this process, of PostgreSQL for our database, and of the sandbox gateway."""

from __future__ import annotations

import time
from contextlib import suppress
from urllib.parse import urlsplit

import psutil
from sqlalchemy import text

from saga.database import sync_engine
from shop.settings import settings

_BACKENDS = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")


class Cpu:
    """The CPU time since it was created. That of PostgreSQL and of the gateway is measured if they run on
    this machine; connections that are closed meanwhile do not count."""

    def __init__(self) -> None:
        self._own, self._backends = time.process_time(), _backends()
        self._gateway = _gateway()
        self._gateway_before = _seconds(self._gateway) if self._gateway else 0.0

    def per_order(self, orders: int) -> dict[str, float]:
        """Returns the milliseconds for each of this many orders, by the name of the measured value, and how
        many orders a core of this process handles in a second."""
        used = time.process_time() - self._own
        measured = {"cpu_ms": 1000 * used / orders, "orders_per_cpu_second": orders / used}
        if backends := _backends():
            database = sum(seconds - self._backends.get(pid, 0.0) for pid, seconds in backends.items())
            measured["database_cpu_ms"] = 1000 * database / orders
        if self._gateway:
            measured["gateway_cpu_ms"] = 1000 * (_seconds(self._gateway) - self._gateway_before) / orders
        return measured


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _backends() -> dict[int, float]:
    """Returns the CPU seconds of each server process of our database, by its id."""
    with sync_engine(settings().database_url).connect() as connection:
        pids = list(connection.execute(_BACKENDS).scalars())
    used: dict[int, float] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.name().startswith("postgres"):
                used[pid] = _seconds(process)
    return used


def _gateway() -> psutil.Process | None:
    """Returns the process that listens where the sandbox gateway is expected, if it is one of this user's."""
    port = urlsplit(settings().payments.url).port
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    return process
    return None
