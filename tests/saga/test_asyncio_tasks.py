"""Tasks end when they are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from saga import asyncio_tasks
from saga.asyncio_tasks import cancel_and_wait, complete


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


async def test_work_is_completed_however_often_its_caller_is_cancelled() -> None:
    may_end, cancelled_again = asyncio.Event(), 3

    async def commits() -> str:
        await may_end.wait()
        return "committed"

    waiting = asyncio.create_task(complete(commits()))
    for _ in range(cancelled_again):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    may_end.set()
    async with asyncio.timeout(10):
        assert await waiting == "committed"


async def test_the_error_of_completed_work_is_raised() -> None:
    async def fails() -> None:
        raise ValueError("cannot be committed")

    with pytest.raises(ValueError, match="cannot be committed"):
        await complete(fails())
