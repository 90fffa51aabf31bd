"""Processor time that a measurement uses: of this process, and of the sandbox gateway's, apart from each
other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psutil

from benchmarks.suite import Measured
from shop.settings import settings


@contextmanager
def processor_time(number: int) -> Iterator[Measured]:
    """Measures the block, which handles `number` orders. Its values are there when it has ended:
    `cpu_ms` and `gateway_cpu_ms` for each order, and `orders_per_cpu_second`: how many orders a core of this
    process handles in a second."""
    used: Measured = {}
    mine, gateway = psutil.Process(), _gateway()
    before = _seconds(mine), _seconds(gateway)
    yield used
    seconds = _seconds(mine) - before[0]
    used |= {"cpu_ms": seconds * 1000 / number, "orders_per_cpu_second": number / seconds}
    used["gateway_cpu_ms"] = (_seconds(gateway) - before[1]) * 1000 / number


def _seconds(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _gateway() -> psutil.Process | None:
    """Returns the process that listens where the sandbox gateway is expected, if it is one of this user's."""
    port = urlsplit(settings().payments.url).port
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    return process
    return None
