"""The number of concurrent runs of a worker, from its machine's memory and the database's connections."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from saga.database import sync_engine
from shop.settings import settings

log = logging.getLogger("shop.worker")

OWN_RUNS_QUEUE = "own-runs"
"""The work queue of `process-order` (prefect.yaml). Other deployments have a queue of higher priority."""
RESERVED = 4
"""Places of a worker that are closed to runs of `process-order`, so that consumers, recovery and payment
events always start."""
LOWEST_LIMIT = RESERVED + 2
"""The lowest limit that a worker selects itself."""
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


def own_run_places(limit: int) -> int:
    """Returns how many of a worker's places runs of `process-order` may take."""
    return max(1, limit - RESERVED)


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
