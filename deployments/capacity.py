"""How many runs a worker takes at once, by what its machine and the database have to give."""

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
"""The work queue of `process-order` (prefect.yaml). Every other deployment is on another one, of higher priority."""
RESERVED = 4
"""Places of a worker that runs of `process-order` never take, so that consumers, recovery and payment events always start."""
FEWEST = RESERVED + 2
"""The lowest limit that a worker gives itself."""
_RUN_BYTES = 200_000_000
"""Memory of one run's process."""
_MEMORY_SHARE = 0.5
_RUN_CONNECTIONS = 3
"""Database connections of one run, on average."""
_OTHER_CONNECTIONS = 50
"""Those that are left to everybody else: the Prefect server, the web app, other workers, people."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LIMIT = text("SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int")


def worker_limit() -> int:
    """`WORKER_LIMIT`, or what half of the memory and the database's connections are enough for."""
    if (wanted := settings().workers.limit) is not None:
        return wanted
    possible = [int(_memory() * _MEMORY_SHARE) // _RUN_BYTES]
    if (connections := _connections()) is not None:
        possible.append((connections - _OTHER_CONNECTIONS) // _RUN_CONNECTIONS)
    return max(FEWEST, min(possible))


def own_run_places(limit: int) -> int:
    """How many of a worker's places runs of `process-order` may take."""
    return max(1, limit - RESERVED)


def _memory() -> int:
    """Bytes that this machine, or this container, has."""
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        return min(total, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return total


def _connections() -> int | None:
    """How many the database lets in; None if it does not answer."""
    try:
        with sync_engine(settings().database_url).connect() as connection:
            return int(connection.execute(_LIMIT).scalar_one())
    except SQLAlchemyError as error:
        log.warning("the database does not say how many connections it has (%s)", type(error).__name__)
        return None
