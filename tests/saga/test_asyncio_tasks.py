"""Tasks end when they are told to."""

from __future__ import annotations

import asyncio

import pytest

from saga import asyncio_tasks
from saga.asyncio_tasks import cancel_and_wait


async def test_a_task_that_loses_its_cancellation_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_tasks, "_AGAIN_SECONDS", 0.01)
    lost = asyncio.Event()

    async def retries() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost.is_set():
                    raise
                lost.set()  # as if a broken connection's error had taken its place

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(retries()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel_and_wait(tasks)
    assert lost.is_set()
    assert all(task.done() for task in tasks)
