"""A PostgreSQL that is silent: its processes stand still. What is sent to it arrives at the machine, which
does not let the connection break; nothing is ever answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from deployments.local.postgres import EmbeddedPostgres


@contextmanager
def silent(server: EmbeddedPostgres) -> Iterator[None]:
    """While the block runs; at its end, processes that still exist continue."""
    leader = server._server()
    assert leader is not None
    leader.suspend()  # first, so that it starts no others
    stopped = [leader, *leader.children(recursive=True)]
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
