"""Names for runs that are of no order: what they do, and when they began, so that a list of runs can be read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


def timed(what: str) -> Callable[[], str]:
    """For `flow_run_name`: `recovery at 09:30:00` (UTC)."""

    def name() -> str:
        return f"{what} at {datetime.now(UTC):%H:%M:%S}"

    return name
