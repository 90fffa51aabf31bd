"""Checkpoints: commits facts about running steps, many instances in one transaction (group commit).

An external step is written for one instance and calls `await checkpoint(...)` between its calls. Hundreds of
them run concurrently in a batch: while one transaction commits, the checkpoints of the others collect for the
next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from saga import journal
from saga.connections import wait_for_others, waiting
from saga.database import NotWritten, is_database_error, transaction
from saga.errors import LeaseLost
from saga.failpoints import failpoint
from saga.instance import Instance

_COMMITTING = failpoint("the commit of notes")
_Checkpoint = tuple[Instance, str, dict[str, Any]]
_Waiting = tuple[_Checkpoint, "asyncio.Future[None]"]


class _Writer:
    """Collects and commits the checkpoints of one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, instance: Instance, step: str, facts: dict[str, Any]) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((instance, step, facts), written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="write-checkpoints")
        with waiting():
            await written

    async def _write_all(self) -> None:
        wait_for_others()
        while self._waiting:
            await asyncio.sleep(0)  # tasks that are ready to write a checkpoint join this transaction
            batch, self._waiting = self._waiting, []
            await self._write(batch)

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            async with transaction(_COMMITTING) as tx:
                held = set(await journal.verify_ownership(tx, {instance for (instance, _, _), _ in batch}))
                if held:
                    await journal.add_notes(tx, [n for n, _ in batch if n[0] in held])
        except BaseException as error:
            if len(batch) > 1 and isinstance(error, Exception) and not is_database_error(error):
                for each in batch:  # one cannot be stored: it fails alone
                    await self._write([each])
                return
            failure = error if isinstance(error, Exception) else NotWritten("the checkpoint was not written")
            for _, written in batch:
                if not written.done():
                    written.set_exception(failure)
            if not isinstance(error, Exception):
                raise
            return
        for (instance, _, _), written in batch:
            if written.done():
                continue
            if instance in held:
                written.set_result(None)
            else:
                written.set_exception(LeaseLost(instance.id))


_writers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Writer] = WeakKeyDictionary()


async def checkpoint(instance: Instance, step: str, **facts: Any) -> None:
    """Commits facts about a step that has begun; they are durable when this returns. Raises `LeaseLost` if
    another worker owns the instance."""
    await _writers.setdefault(asyncio.get_running_loop(), _Writer()).add(instance, step, facts)
