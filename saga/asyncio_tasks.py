"""Cancels asyncio tasks reliably, and completes what a cancelled task still has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

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


async def complete(work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work to its end and returns its result, however often the calling task is cancelled.

    For what a task that is being cancelled still has to commit; further cancellations are dropped.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
