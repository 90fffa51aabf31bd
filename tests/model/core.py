"""One core for this process and for those of PostgreSQL that answer it.

They only ever wait for each other.
Waking a process on another core takes longer than all that it is woken for.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def one_core() -> Iterator[None]:
    """For this process; its former cores are given back at the end.
    Where a system has no such thing, nothing happens."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[_number() % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _number() -> int:
    """Tests that run side by side are numbered, and had better not meet on one core."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw") or random.randrange(64))


def join(processes: Iterable[int]) -> None:
    """Brings other processes here, if that is allowed."""
    if hasattr(os, "sched_setaffinity"):
        for process in processes:
            with suppress(OSError):
                os.sched_setaffinity(process, os.sched_getaffinity(0))
