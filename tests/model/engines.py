"""SQLAlchemy's own engines on simulated connections.
They outlive the workers that use them: making one takes as long as an order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import saga.database
from saga.database import connect_args
from shop.settings import settings
from tests.model.connection import Connection
from tests.model.exchange import Reserve
from tests.model.worker import Dead, Worker, current


class Engines:
    """`committed` is called for each commit that wrote something."""

    def __init__(self, url: str, committed: Callable[[Worker], None]) -> None:
        self._reserve, self._committed = Reserve(url), committed
        self._free: list[AsyncEngine] = []
        self._used: dict[Worker, AsyncEngine] = {}
        self._warming: set[Worker] = set()

    def close(self) -> None:
        for engine in self._free:
            engine.sync_engine.dispose(close=False)
        self._reserve.close()

    def give(self, worker: Worker) -> None:
        self._used[worker] = self._free.pop() if self._free else self._make()

    def cut(self, worker: Worker) -> None:
        """What it had not committed is rolled back."""
        for connection in [c for c in self._reserve.in_use if c.worker is worker]:
            connection.hang_up()

    def take_back(self, worker: Worker) -> None:
        engine = self._used.pop(worker)
        engine.sync_engine.dispose(close=False)
        self._free.append(engine)

    def mine(self, _url: str, **_: Any) -> AsyncEngine:
        """Instead of `create_async_engine`."""
        worker = current()
        assert worker is not None
        return self._used[worker]

    def _make(self) -> AsyncEngine:
        made: list[AsyncEngine] = []
        warming = Worker("warming up", lambda: self._warm(made))
        self._warming = {warming}
        warming.loop.settle()
        self._warming = set()
        error = warming.failure() if warming.ended else AssertionError("an engine does not come up")
        warming.loop.close()
        if error:
            raise error
        return made[0]

    async def _warm(self, made: list[AsyncEngine]) -> None:
        """An engine asks PostgreSQL about itself first; that is no part of any history."""
        options = {**saga.database._OPTIONS, "pool_size": 10, "max_overflow": 10}
        options["connect_args"] = {**connect_args(settings().database_url), "async_creator_fn": self._connect}
        engine = create_async_engine(settings().database_url, **options)
        async with engine.begin():
            pass
        engine.sync_engine.dispose(close=False)
        made.append(engine)

    async def _connect(self, *_: Any, **options: Any) -> Connection:
        worker = current()
        if worker is not None and worker.dead:
            raise Dead
        connection = Connection.of(self._reserve, self._committed, options.get("context"))
        if worker in self._warming:
            connection.worker = None
        return connection
