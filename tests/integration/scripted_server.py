"""A server on the other end of a client that says whatever a test wants it to say,
byte by byte, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes = b""

    @property
    def key(self) -> str:
        return self.headers.get("idempotency-key", "")


Answer = Callable[[Request], bytes | None]


@dataclass
class ScriptedServer:
    """Where it is, and what it was asked."""

    url: str
    asked: list[Request] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.asked]


def http(body: object = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An answer as it goes over the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "\r\n".join(
        [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    )
    return head.encode() + b"\r\n\r\n" + content


def rubbish(good: object) -> dict[str, bytes]:
    """What no client may take for an answer, when `good` is one."""
    return {
        "nothing": b"",
        "noise": b"\x00\xff\xfe rubbish \r\n\r\n",
        "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
        "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
        "half a body": http(good)[:-20],
        "no body": http(),
        "a web page": http(b"<html>It works!</html>"),
        "null": http(None),
        "a number": http(1),
        "a list": http([1]),
        "an empty object": http({}),
        "an error as success": http({"error": {"code": "x", "message": "y"}}),
        "not UTF-8": http(b'{"id": "\xff"}'),
        "deep": http(b"[" * 100_000),
        "deep error": http(b'{"error":' * 100_000, "500 Oh"),
        "endless number": http(b"9" * 100_000),
        "packed": http(b"\x1f\x8b\x08\x00rubbish", "200 OK", "Content-Encoding: gzip"),
        "elsewhere": http(b"", "302 Found", "Location: http://127.0.0.1:1/"),
        "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
        "server error": http(b"<html>", "500 Internal Server Error"),
        "bad gateway": http(b"", "502 Bad Gateway"),
    }


@asynccontextmanager
async def answering_server(
    answer: bytes | Answer | None, *, pause: float = 0, drip: int = 0
) -> AsyncIterator[ScriptedServer]:
    """Says just this to everything, or what a function of the request says,
    after a pause or in drips with pauses; None: nothing at all."""
    asked: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append(request := await _read(reader))
            answered = answer(request) if callable(answer) else answer
            if answered is None:
                await reader.read()
            else:
                await _respond(answered, reader, writer, pause, drip or max(len(answered), 1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield ScriptedServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked)


async def _read(reader: asyncio.StreamReader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    return Request(
        method, parts.path, {name: found[0] for name, found in parse_qs(parts.query).items()}, headers, body
    )


async def _respond(
    answered: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float, step: int
) -> None:
    for start in range(0, len(answered), step):
        if pause:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), pause)
                return  # the client has left
        writer.write(answered[start : start + step])
        await writer.drain()
