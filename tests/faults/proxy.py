"""A proxy between the shop and its PostgreSQL that spoils commits:
it speaks enough of the protocol to see them pass."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

_COMMIT, _ROLLBACK = b"COMMIT\x00", b"ROLLBACK\x00"


class Fate(Enum):
    """What becomes of a commit."""

    ANSWERED = "answered"
    ANSWER_LOST = "answer lost"
    """It is done; the connection breaks before the answer."""
    NEVER_ARRIVES = "never arrives"
    """The connection breaks before it is done."""
    REFUSED = "refused"
    """The server says no (disk full), and rolls back."""


class Proxy:
    """Listens on a socket in `folder` and passes everything on to the server at `url`,
    from a thread of its own.

    `share`: how many of the commits are spoilt; which, the seed says.
    """

    def __init__(self, url: str, folder: Path, seed: int = 1) -> None:
        parts = urlsplit(url)
        server = parse_qs(parts.query)
        port = server["port"][0]
        self._server = f"{server['host'][0]}/.s.PGSQL.{port}"
        self._path = folder / f".s.PGSQL.{port}"
        self.url = f"postgresql://postgres@{parts.path}?host={quote(str(folder), safe='')}&port={port}"
        self.share = 0.0
        self.fates: Counter[Fate] = Counter()
        self._draw = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Passes on while the block runs."""
        loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with await asyncio.start_unix_server(self._serve, self._path):
                ready.set()
                await stop.wait()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    def _fate(self) -> Fate:
        spoilt = self._draw.random() < self.share
        fate = (
            self._draw.choice([Fate.ANSWER_LOST, Fate.NEVER_ARRIVES, Fate.REFUSED])
            if spoilt
            else Fate.ANSWERED
        )
        self.fates[fate] += 1
        return fate

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
            connection = _Connection(self, to_client, to_server)
            async with asyncio.TaskGroup() as both:
                both.create_task(connection.answers(from_server))
                both.create_task(connection.requests(from_client))
        except* (OSError, asyncio.IncompleteReadError, _Broken):
            pass
        finally:
            self._tasks.discard(task)
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.transport.abort()


class _Broken(Exception):
    """The connection is to be broken off now."""


class _Connection:
    """One connection, both ways."""

    def __init__(
        self, proxy: Proxy, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        self._proxy, self._to_client, self._to_server = proxy, to_client, to_server
        self._fate = Fate.ANSWERED

    async def requests(self, reader: asyncio.StreamReader) -> None:
        size = await reader.readexactly(4)  # the first message has no kind
        self._to_server.write(size + await reader.readexactly(int.from_bytes(size) - 4))
        while True:
            kind, size, body = await _message(reader)
            if kind == b"Q" and body == _COMMIT:
                self._fate = self._proxy._fate()
                if self._fate is Fate.NEVER_ARRIVES:
                    raise _Broken
                if self._fate is Fate.REFUSED:
                    body = _ROLLBACK
                    size = (len(body) + 4).to_bytes(4)
            self._to_server.write(kind + size + body)
            await self._to_server.drain()

    async def answers(self, reader: asyncio.StreamReader) -> None:
        while True:
            kind, size, body = await _message(reader)
            if self._fate is Fate.ANSWER_LOST and kind == b"C":
                raise _Broken  # the server has said that it is done
            if self._fate is Fate.REFUSED and kind == b"C":
                kind, body = b"E", b"SERROR\x00VERROR\x00C53100\x00Mno space left on device\x00\x00"
                size = (len(body) + 4).to_bytes(4)
                self._fate = Fate.ANSWERED
            self._to_client.write(kind + size + body)
            await self._to_client.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes, bytes]:
    kind, size = await reader.readexactly(1), await reader.readexactly(4)
    return kind, size, await reader.readexactly(int.from_bytes(size) - 4)


def cut(connection_url: str, database: str) -> int:
    """Ends all connections to the database, on the server's side. Returns how many."""
    import psycopg

    with suppress(psycopg.OperationalError), psycopg.connect(connection_url, autocommit=True) as connection:
        return len(
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
            ).fetchall()
        )
    return 0
