"""Real connections to a real PostgreSQL. Where the interleaving matters, they wait for the test before a
statement is sent, and the test also chooses the result of a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from tests.model.exchange import IDLE, Exchange, Reserve, at_once
from tests.model.trouble import Trouble
from tests.model.worker import Worker, current

_NEW_LEASE = "INSERT INTO lease"
"""Not visible to others yet."""
_OF_LEASES = ("UPDATE lease SET taken_from", "DELETE FROM lease")
"""What nothing depends on until an order is written about."""


class Connection(psycopg.AsyncConnection[Any]):
    """As psycopg's own, but for the waiting."""

    reserve: Reserve
    worker: Worker | None
    committed: Callable[[Worker], None]
    statement = ""
    ending = False
    wrote = False
    """Whether its transaction has changed anything that is checked."""
    locks = False
    exchange: Exchange | None = None

    @classmethod
    def of(cls, reserve: Reserve, committed: Callable[[Worker], None], context: Any) -> Connection:
        pgconn, prepared = reserve.take()
        made = cls(pgconn)
        made.reserve, made.worker, made.committed = reserve, current(), committed
        made._adapters = psycopg.adapt.AdaptersMap(
            context.adapters if hasattr(context, "adapters") else context
        )
        if prepared is not None:
            made._prepared = prepared
        made.cursor_factory = _Cursor
        reserve.in_use.append(made)
        return made

    async def commit(self) -> None:
        self.statement, self.ending = "COMMIT", True
        try:
            await super().commit()
        finally:
            self.ending = False

    async def rollback(self) -> None:
        if self.pgconn.transaction_status == IDLE:
            return
        self.statement = "ROLLBACK"
        await super().rollback()

    async def wait(self, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
        """The fault here is a lost connection:
        before the statement arrives, or after it, before the answer arrives."""
        worker, commits = self.worker, self.ending
        if worker is None or self._autocommit:
            return at_once(gen, self.pgconn)
        if not self.ending and self.pgconn.transaction_status == IDLE:
            self.wrote = self.locks = False
        trouble = (
            await worker.point(self.statement, "database")
            if worker.dead or self._is_a_point(worker)
            else None
        )
        if trouble not in {None, Trouble.LOST_ANSWER, Trouble.SLOW_ANSWER}:
            self._cut()
        exchange = self.exchange = Exchange(gen, self.pgconn, self.reserve.waits)
        if not exchange.run():
            await self._wait_for_lock(worker, exchange)
        if self.pgconn.transaction_status == IDLE:
            self.reserve.run_waiting()
        answer = exchange.answer()
        if commits:
            wrote, self.wrote, self.locks = self.wrote, False, False
            if wrote:
                self.committed(worker)
        if trouble is Trouble.SLOW_ANSWER:
            trouble = await worker.point(f"{self.statement} is answered", "database")
        if trouble is not None:
            self._cut()
        return answer

    def _is_a_point(self, worker: Worker) -> bool:
        """Where the interleaving matters: before a transaction, and at its end if others may wait for its
        locks. A death in between is the same as one at its end.
        `fine` workers can be stopped at every statement."""
        if worker.fine:
            return True
        if self.ending:
            return self.wrote or self.locks
        return self.pgconn.transaction_status == IDLE and not self.statement.startswith(_NEW_LEASE)

    async def _wait_for_lock(self, worker: Worker, exchange: Exchange) -> None:
        self.reserve.waiting.append(exchange)
        try:
            if await worker.point(f"{self.statement} (waits for a lock)", "lock", lambda: exchange.over):
                self._cut()
        except BaseException:
            if self.pgconn is not self.reserve.gone:
                self.reserve.forget(exchange)
                exchange.abandon()
            raise

    def executed(self, changed: int) -> None:
        """Of a statement that has come to its end, and how many rows it changed."""
        if changed <= 0 or self.statement.startswith(_NEW_LEASE):
            return
        reads = self.statement.startswith("SELECT")
        self.locks = self.locks or not reads or " FOR " in self.statement
        self.wrote = self.wrote or (not reads and not self.statement.startswith(_OF_LEASES))

    def _cut(self) -> None:
        self.hang_up()
        raise psycopg.OperationalError("the connection was cut")

    async def close(self) -> None:
        self._closed = True
        self.hang_up()

    def hang_up(self) -> None:
        """The server rolls back, and this connection is broken from now on."""
        if self.pgconn is not self.reserve.gone:
            pgconn, self.pgconn = self.pgconn, self.reserve.gone
            self.reserve.forget(self.exchange)
            self.reserve.in_use.remove(self)
            self.reserve.give(pgconn, self._prepared)
            self.reserve.run_waiting()


class _Cursor(psycopg.AsyncCursor[Any]):
    async def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        connection: Any = self._conn
        connection.statement = str(query).lstrip()
        await super().execute(query, *arguments, **options)
        connection.executed(self.rowcount)
        return self
