"""HTTP/1.1 connections to one server, on h11 and asyncio's own transports.

A connection serves one request at a time, and is closed if that request fails: none waits for another, and no
answer can be taken for that of another request. A client of httpx costs four times the CPU of a request.
"""

from __future__ import annotations

import asyncio
import base64
import select
from collections.abc import Sequence

import h11
import httpx

_IDLE_SECONDS = 5.0
"""Seconds after which an unused connection is not used again. Servers keep idle ones open for longer."""
_MOST_HEADER_BYTES = 65_536
"""Limits the header of an answer."""
_ADDRESS_SECONDS = 0.25
"""Seconds until the next address of a host is tried, too (RFC 8305)."""


class Unreachable(Exception):
    """There is no connection to the server. Nothing was sent."""


class BadAnswer(Exception):
    """The answer is not HTTP, is incomplete, or is too large. The message continues "the server answered"."""


class Connections:
    """The idle connections to one server, for one event loop. The caller limits how many requests run at
    once, and how long they take."""

    def __init__(self, url: str, *, connect_seconds: float, most_bytes: int) -> None:
        """Raises an exception if the URL is invalid. `most_bytes` limits the body of an answer."""
        address = httpx.URL(url)
        if address.scheme not in {"http", "https"} or not address.host:
            raise ValueError("the URL has to begin with http://host or https://host")
        self._host, self._port = address.raw_host.decode(), address.port
        self._path = address.raw_path.partition(b"?")[0].rstrip(b"/")
        self._headers = [
            (b"Host", address.netloc),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
        ]
        if address.userinfo:
            login = base64.b64encode(f"{address.username}:{address.password}".encode())
            self._headers.append((b"Authorization", b"Basic " + login))
        # Loading the certificates takes 100 ms in each process, and is needed for https only.
        self._tls = httpx.create_ssl_context(trust_env=False) if address.scheme == "https" else None
        self._connect_seconds, self._most_bytes = connect_seconds, most_bytes
        self._idle: list[_Connection] = []

    def request(self, method: str, target: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> h11.Request:
        """Returns the request. Raises an exception if it cannot be sent."""
        return h11.Request(
            method=method, target=self._path + target.encode("ascii"), headers=[*self._headers, *headers]
        )

    async def exchange(self, request: h11.Request, body: bytes = b"") -> tuple[int, bytes]:
        """Sends the request. Returns status and body of the answer.

        Raises `Unreachable`, `BadAnswer`, and the operating system's errors. After each but the first the
        server may have executed the request.
        """
        connection = self._take() or await self._connect()
        try:
            answer = await connection.ask(request, body)
        except BaseException:
            connection.abort()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            self._idle.pop().abort()

    def _take(self) -> _Connection | None:
        """Returns the connection that was used last. Closes those that were idle for too long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._most_bytes),
                    self._host,
                    self._port or (443 if self._tls else 80),
                    ssl=self._tls,
                    happy_eyeballs_delay=_ADDRESS_SECONDS,
                )
        except (OSError, OverflowError, UnicodeError) as error:
            raise Unreachable from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, from which nothing is read but the answer to its request."""

    def __init__(self, most_bytes: int) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEADER_BYTES)
        self._most_bytes, self._loop = most_bytes, asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._status, self._body = 0, bytearray()
        self._used_at = 0.0
        self.reusable = False
        """Whether another request may follow: the answer was complete, and nothing came after it."""

    @property
    def usable(self) -> bool:
        """Whether the idle connection is open, and was used lately. Looks for an end that the event loop has
        not noticed yet."""
        if not self.reusable or self._transport is None or self._loop.time() - self._used_at > _IDLE_SECONDS:
            return False
        socket = select.poll()
        socket.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return not socket.poll(0)

    def ask(self, request: h11.Request, body: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Sends the request. Returns the future answer."""
        self._answer, self._status, self._body = self._loop.create_future(), 0, bytearray()
        self.reusable = False
        if self._transport is None:
            raise ConnectionError("the connection is closed")
        events = [request, h11.Data(data=body), h11.EndOfMessage()] if body else [request, h11.EndOfMessage()]
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        return self._answer

    def abort(self) -> None:
        """Closes the connection at once, also if an answer is still to come."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # it answers no request
            return
        try:
            self._http.receive_data(data)
            while not self._answer.done() and (event := self._http.next_event()) is not h11.NEED_DATA:
                self._read(event, self._answer)
        except (h11.RemoteProtocolError, BadAnswer) as error:
            self._answer.set_exception(error if isinstance(error, BadAnswer) else BadAnswer("not in HTTP"))

    def eof_received(self) -> None:
        self.data_received(b"")  # the end of an answer of unknown length, or else an incomplete answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self.reusable = None, False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the connection was closed"))

    def _read(self, event: object, answer: asyncio.Future[tuple[int, bytes]]) -> None:
        match event:
            case h11.InformationalResponse():
                pass
            case h11.Response():
                self._status = event.status_code
            case h11.Data():
                self._body += event.data
                if len(self._body) > self._most_bytes:
                    raise BadAnswer("with a body that is too large")
            case h11.EndOfMessage():
                answer.set_result((self._status, bytes(self._body)))
                if (
                    self._http.our_state is self._http.their_state is h11.DONE
                    and not self._http.trailing_data[0]
                ):
                    self._http.start_next_cycle()
                    self._used_at, self.reusable = self._loop.time(), True
            case _:  # the connection was closed, or changes to another protocol
                raise BadAnswer("not in HTTP")
