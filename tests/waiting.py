"""Waiting on conditions, with a limit; nothing here or in any test sleeps for its own sake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Asks again and again until it is so."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        await asyncio.sleep(0.05)
