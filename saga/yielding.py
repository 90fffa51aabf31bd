"""Long loops that yield to the event loop, so that other tasks run on time, such as the lease's renewal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
_TURN_SECONDS = 0.02
"""Seconds after which a loop yields; a single item may take longer."""


async def yielding(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterates over the items and yields to the event loop between two of them when the time is over,
    measured by the clock, because a machine may be slow or busy."""
    since = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - since > _TURN_SECONDS:
            await asyncio.sleep(0)
            since = time.monotonic()
