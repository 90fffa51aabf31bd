"""The number of concurrent runs of a worker, from its machine's memory and the database's connections."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from saga.database import sync_engine
from saga.limit import Limit
from shop.settings import settings

log = logging.getLogger("shop.worker")

LANES, REVIEW, REPORTS, OWN_RUNS = "lanes", "review", "reports", "own-runs"
"""The work queues of the pool, in the sequence of their priority: consumers and recovery; people's decisions
and payment events; reports; runs of `process-order`, of which there can be hundreds."""
QUEUES = {LANES: 0, REVIEW: 2, REPORTS: 3, OWN_RUNS: 4}
"""How many places of a worker are closed to runs of this queue and of those after it, so that the runs of the
queues before it always start."""
LOWEST_LIMIT = 6
"""The lowest limit that a worker selects itself."""
ORDER_RUNS = Limit(
    "process-order",
    most=lambda: settings().workers.most_order_runs,
    total=lambda: settings().workers.most_order_runs,
)
"""The concurrent runs of `process-order` of all workers together."""
_RUN_BYTES = 200_000_000
"""Memory of one run's process, in bytes."""
_MEMORY_SHARE = 0.5
_RUN_CONNECTIONS = 3
"""Average number of database connections of one run."""
_OTHER_CONNECTIONS = 50
"""Database connections reserved for the Prefect server, the web app, other workers and people."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LIMIT = text(
    "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
)


def worker_limit() -> int:
    """Returns `WORKER_LIMIT`, or the number of runs for half of the memory and of the database's
    connections."""
    if (wanted := settings().workers.limit) is not None:
        return wanted
    possible = [int(_memory() * _MEMORY_SHARE) // _RUN_BYTES]
    if (connections := _connections()) is not None:
        possible.append((connections - _OTHER_CONNECTIONS) // _RUN_CONNECTIONS)
    return max(LOWEST_LIMIT, min(possible))


def places(queue: str, limit: int) -> int:
    """Returns how many of a worker's places runs of this queue, and of those after it, may take together."""
    return max(1, limit - QUEUES.get(queue, 0))


def _memory() -> int:
    """Returns the memory of this machine or container, in bytes."""
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # not in a container, or without a limit ("max")
        return min(total, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return total


def _connections() -> int | None:
    """Returns the database's connection limit; None if it does not answer."""
    try:
        with sync_engine(settings().database_url).connect() as connection:
            return int(connection.execute(_LIMIT).scalar_one())
    except SQLAlchemyError as error:
        log.warning("reading the database's connection limit failed (%s)", type(error).__name__)
        return None
