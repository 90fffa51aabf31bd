"""Long calculations in the event loop, with turns for whatever else waits for it, such as the renewal of the lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
_TURN_SECONDS = 0.02
"""Limits how long the loop goes on without a turn for the others, unless a single item takes longer."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items. Between two of them the others have their turn, whenever it is time: by the clock, as a machine may be slow or busy."""
    since = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - since > _TURN_SECONDS:
            await asyncio.sleep(0)
            since = time.monotonic()
