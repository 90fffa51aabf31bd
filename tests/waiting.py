"""Waiting on conditions, with a limit; nothing here or in any test sleeps for its own sake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

TIMEOUT_FACTOR = 4
"""Limits are multiplied by it: a machine that is slow, or busy with others' work, is no failure, and time is
lost only where something fails. What is claimed to be quick is measured, not waited for."""


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Asks again and again until it is so."""
    end = time.monotonic() + TIMEOUT_FACTOR * seconds
    while not await condition():
        assert time.monotonic() < end, f"waited {TIMEOUT_FACTOR * seconds:g} s in vain for {what}"
        await asyncio.sleep(0.05)
