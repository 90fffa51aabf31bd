"""Real connections to a real PostgreSQL, whose every statement waits for the test before it is sent, and every commit before it is answered.

A connection outlives the worker that used it, because making one takes ten times as long as an order: when a worker dies, what it had not
committed is rolled back, as the server does when its client is gone.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from psycopg import pq

from tests.model.core import join
from tests.model.trouble import Trouble
from tests.model.worker import Worker, current

_POLL_MS = 2
_IDLE, _ACTIVE = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE
_LONGEST = 2_000
"""Polls for one answer, after which something is wrong with the test itself."""
_NEW_LEASE = "INSERT INTO lease"
"""Nobody knows of it yet."""
_OF_LEASES = ("UPDATE lease SET taken_from", "DELETE FROM lease")
"""What nothing depends on until an order is written about."""


class Exchange:
    """A statement that was sent, and its answer."""

    def __init__(self, gen: Generator[int, int, Any], pgconn: pq.abc.PGconn, waits: Callable[[int], bool]) -> None:
        self._gen, self._pgconn, self._waits = gen, pgconn, waits
        self._wants: int | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self.over = False

    def run(self) -> bool:
        """Until it is answered. False if it waits for a lock that somebody else holds."""
        for _ in range(_LONGEST):
            if self.over:
                return True
            try:
                if self._wants is None:
                    self._wants = next(self._gen)
                    continue
                ready = self._poll()
                if not ready and self._waits(self._pgconn.backend_pid):
                    return False
                if ready:
                    self._wants = self._gen.send(ready)
            except StopIteration as end:
                self.over, self._answer = True, end.value
            except psycopg.Error as error:
                self.over, self._error = True, error
        raise AssertionError("the database does not answer")

    def _poll(self) -> int:
        assert self._wants is not None
        poll = select.poll()
        poll.register(self._pgconn.socket, (select.POLLIN if self._wants & 1 else 0) | (select.POLLOUT if self._wants & 2 else 0))
        if not (events := poll.poll(_POLL_MS)):
            return 0
        return (1 if events[0][1] & ~select.POLLOUT else 0) | (2 if events[0][1] & select.POLLOUT else 0)

    def abandon(self) -> None:
        """Takes it back while it waits for its lock."""
        if not self.over:
            self._pgconn.get_cancel().cancel()
        while not self.run():
            pass  # it has not heard of it yet

    def answer(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer


class Reserve:
    """The connections that nobody uses just now."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[tuple[pq.abc.PGconn, Any]] = []
        self._all: list[pq.abc.PGconn] = []
        self._owners: dict[int, Any] = {}
        self.gone = self._connect()
        """What a connection that was cut has instead."""
        self.gone.finish()
        self._looking = psycopg.connect(url, autocommit=True)
        join([self._looking.pgconn.backend_pid])
        self.in_use: list[Connection] = []
        self.waiting: list[Exchange] = []

    def _connect(self) -> pq.abc.PGconn:
        connection = psycopg.connect(self._url)
        connection._closed = True  # its other half is taken over: no warning when this one goes
        join([connection.pgconn.backend_pid])
        return connection.pgconn

    def take(self) -> tuple[pq.abc.PGconn, Any]:
        if not self._free:
            made = self._connect()
            self._all.append(made)
            self._free.append((made, None))
        return self._free.pop()

    def give(self, pgconn: pq.abc.PGconn, prepared: Any) -> None:
        """Rolls back what was not committed."""
        if pgconn.transaction_status == _ACTIVE:
            pgconn.get_cancel().cancel()
        if pgconn.transaction_status != _IDLE:
            pgconn.exec_(b"ROLLBACK")
        self._free.append((pgconn, prepared))

    def waits(self, backend: int) -> bool:
        """Whether that connection's statement waits for a lock."""
        row = self._looking.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [backend]).fetchone()
        return bool(row and row[0])

    def forget(self, exchange: Exchange | None) -> None:
        """Nobody waits for its answer any more."""
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    def look_at_waiting(self) -> None:
        """After locks were released: those that waited for them go on at once, before anybody else asks anything."""
        for exchange in list(self.waiting):
            if exchange.run():
                self.waiting.remove(exchange)

    def close(self) -> None:
        self._looking.close()
        for pgconn in self._all:
            pgconn.finish()


class Connection(psycopg.AsyncConnection[Any]):
    """As psycopg's own, but for the waiting."""

    reserve: Reserve
    worker: Worker | None
    committed: Callable[[Worker], None]
    saying = ""
    ending = False
    wrote = False
    """Whether its transaction has changed anything that the witness looks at."""
    locks = False
    exchange: Exchange | None = None

    @classmethod
    def of(cls, reserve: Reserve, committed: Callable[[Worker], None], context: Any) -> Connection:
        pgconn, prepared = reserve.take()
        made = cls(pgconn)
        made.reserve, made.worker, made.committed = reserve, current(), committed
        made._adapters = psycopg.adapt.AdaptersMap(context.adapters if hasattr(context, "adapters") else context)
        if prepared is not None:
            made._prepared = prepared
        made.cursor_factory = _Cursor
        reserve.in_use.append(made)
        return made

    async def commit(self) -> None:
        self.saying, self.ending = "COMMIT", True
        try:
            await super().commit()
        finally:
            self.ending = False

    async def rollback(self) -> None:
        if self.pgconn.transaction_status == _IDLE:
            return
        self.saying = "ROLLBACK"
        await super().rollback()

    async def wait(self, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:  # noqa: ASYNC109  (psycopg's signature)
        """What goes wrong here is that the connection is lost: before the statement arrives, or after it, before the answer is heard."""
        worker, commits = self.worker, self.ending
        if worker is None or self._autocommit:
            return _at_once(gen, self.pgconn)
        if not self.ending and self.pgconn.transaction_status == _IDLE:
            self.wrote = self.locks = False
        trouble = await worker.point(self.saying, "database") if worker.dead or self._is_a_point(worker) else None
        if trouble not in {None, Trouble.LOST_ANSWER, Trouble.SLOW_ANSWER}:
            self._cut()
        exchange = self.exchange = Exchange(gen, self.pgconn, self.reserve.waits)
        if not exchange.run():
            await self._wait_for_lock(worker, exchange)
        if self.pgconn.transaction_status == _IDLE:
            self.reserve.look_at_waiting()
        answer = exchange.answer()
        if commits:
            wrote, self.wrote, self.locks = self.wrote, False, False
            if wrote:
                self.committed(worker)
        if trouble is Trouble.SLOW_ANSWER:
            trouble = await worker.point(f"{self.saying} is answered", "database")
        if trouble is not None:
            self._cut()
        return answer

    def _is_a_point(self, worker: Worker) -> bool:
        """Where it can matter who goes on: before a transaction, and at its end if others may wait for its locks. A death in between is
        the same as one at its end. `fine` workers can be stopped at every statement."""
        if worker.fine:
            return True
        if self.ending:
            return self.wrote or self.locks
        return self.pgconn.transaction_status == _IDLE and not self.saying.startswith(_NEW_LEASE)

    async def _wait_for_lock(self, worker: Worker, exchange: Exchange) -> None:
        self.reserve.waiting.append(exchange)
        try:
            if await worker.point(f"{self.saying} (waits for a lock)", "lock", lambda: exchange.over):
                self._cut()
        except BaseException:
            if self.pgconn is not self.reserve.gone:
                self.reserve.forget(exchange)
                exchange.abandon()
            raise

    def heard(self, changed: int) -> None:
        """Of a statement that has come to its end, and how many rows it changed."""
        if changed <= 0 or self.saying.startswith(_NEW_LEASE):
            return
        reads = self.saying.startswith("SELECT")
        self.locks = self.locks or not reads or " FOR " in self.saying
        self.wrote = self.wrote or (not reads and not self.saying.startswith(_OF_LEASES))

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
            self.reserve.look_at_waiting()


class _Cursor(psycopg.AsyncCursor[Any]):
    async def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        connection: Any = self._conn
        connection.saying = str(query).lstrip()
        await super().execute(query, *arguments, **options)
        connection.heard(self.rowcount)
        return self


def _at_once(gen: Any, pgconn: pq.abc.PGconn) -> Any:
    exchange = Exchange(gen, pgconn, lambda _: False)
    exchange.run()
    return exchange.answer()
