"""Names of runs that are not about one order: their purpose and start time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


def timed(what: str) -> Callable[[], str]:
    """Returns a `flow_run_name` such as `recovery at 09:30:00` (UTC)."""

    def name() -> str:
        return f"{what} at {datetime.now(UTC):%H:%M:%S}"

    return name
