"""Notes of many orders at once, one commit for all of them (group commit).

A step that talks to the outside is written for one order and calls `await note(...)` between its moves. Hundreds of them run
side by side in a batch: while one transaction is under way the notes of the others gather for the next.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from shop import journal
from shop.connections import wait_for_others, waiting
from shop.database import NotWritten, transaction
from shop.errors import LeaseLost
from shop.points import effect
from shop.under_way import OrderUnderWay

_NOTING = effect("the commit of notes")
_Note = tuple[OrderUnderWay, str, dict[str, Any]]


class _Writer:
    """Gathers the notes of one event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[_Note, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def note(self, order: OrderUnderWay, step: str, facts: dict[str, Any]) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((order, step, facts), written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="write-notes")
        with waiting():
            await written

    async def _write_all(self) -> None:
        wait_for_others()
        while self._waiting:
            await asyncio.sleep(0)  # whoever is ready to note something joins this transaction
            batch, self._waiting = self._waiting, []
            try:
                async with transaction(_NOTING) as tx:
                    held = set(await journal.hold(tx, {order for (order, _, _), _ in batch}))
                    if held:
                        await journal.note(tx, [n for n, _ in batch if n[0] in held])
            except BaseException as error:
                for _, written in batch:
                    if not written.done():
                        written.set_exception(error if isinstance(error, Exception) else NotWritten("the notes"))
                if not isinstance(error, Exception):
                    raise
                continue
            for (order, _, _), written in batch:
                if written.done():
                    continue
                if order in held:
                    written.set_result(None)
                else:
                    written.set_exception(LeaseLost(order.id))


_writers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Writer] = WeakKeyDictionary()


async def note(order: OrderUnderWay, step: str, **facts: Any) -> None:
    """Commits facts about a step that has begun; they are durable when this returns. LeaseLost if the order is another's now."""
    await _writers.setdefault(asyncio.get_running_loop(), _Writer()).note(order, step, facts)
