"""Statements on their way to PostgreSQL, and the connections that outlive the workers that use them.

Making a connection takes ten times as long as an order. When a worker dies, what it had not committed is
rolled back, as the server does when its client is gone.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from tests.model.core import join

if TYPE_CHECKING:
    from tests.model.connection import Connection

IDLE, _ACTIVE = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE
_POLL_MS = 2
_LONGEST = 2_000
"""Polls for one answer, after which something is wrong with the test itself."""


class Exchange:
    """A statement that was sent, and its answer."""

    def __init__(
        self, gen: Generator[int, int, Any], pgconn: pq.abc.PGconn, waits: Callable[[int], bool]
    ) -> None:
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
        poll.register(
            self._pgconn.socket,
            (select.POLLIN if self._wants & 1 else 0) | (select.POLLOUT if self._wants & 2 else 0),
        )
        if not (events := poll.poll(_POLL_MS)):
            return 0
        return (1 if events[0][1] & ~select.POLLOUT else 0) | (2 if events[0][1] & select.POLLOUT else 0)

    def abandon(self) -> None:
        """Takes it back while it waits for its lock."""
        if not self.over:
            self._pgconn.get_cancel().cancel()
        while not self.run():
            pass  # it has not received it yet

    def answer(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer


class Reserve:
    """The idle connections."""

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
        if pgconn.transaction_status != IDLE:
            pgconn.exec_(b"ROLLBACK")
        self._free.append((pgconn, prepared))

    def waits(self, backend: int) -> bool:
        """Whether that connection's statement waits for a lock."""
        row = self._looking.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [backend]).fetchone()
        return bool(row and row[0])

    def forget(self, exchange: Exchange | None) -> None:
        """Its answer is no longer awaited."""
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    def run_waiting(self) -> None:
        """After locks were released: transactions that waited for them continue at once,
        before any other statement."""
        for exchange in list(self.waiting):
            if exchange.run():
                self.waiting.remove(exchange)

    def close(self) -> None:
        self._looking.close()
        for pgconn in self._all:
            pgconn.finish()


def at_once(gen: Any, pgconn: pq.abc.PGconn) -> Any:
    exchange = Exchange(gen, pgconn, lambda _: False)
    exchange.run()
    return exchange.answer()
