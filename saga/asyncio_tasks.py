"""Cancels asyncio tasks reliably."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_AGAIN_SECONDS = 10.0
"""Seconds that a cancelled task has to clean up before it is cancelled again."""


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits until they have ended, however they end.

    A cancellation can get lost: it interrupts a query, and the error of a connection that breaks meanwhile
    takes its place. A task that retries after such errors would run forever, so it is cancelled again.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
