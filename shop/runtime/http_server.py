"""Serves an HTTP application from one process, and prints its address once it accepts requests.

Clients are not trusted to be quick: see `BoundedProtocol`. Whoever serves an app of ours with another server has to set such limits there.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Self

import h11
import uvicorn
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from shop.runtime.files import write_atomic

HEADER_SECONDS = 10
"""For a request's whole header, from when a connection was made."""
_BODY_SECONDS = 30
"""For a request's whole body. An application may ask for more haste (see `BoundedBodies`)."""
_ANSWER_SECONDS = 120
"""For an answer, until its client has read it."""
_LINGER_SECONDS = 5
"""After an answer to a request whose body has not come in whole: so long the client can still read the answer."""
SERVERS_OWN = "order_saga.receive"
"""In the scope of a request: what the server itself gave for receiving it."""
_FEWEST, _MOST = 16, 4_096
_START_SECONDS = 20

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with a time limit for whatever a client has to do: send a header, send a body, read an answer.

    Of connections whose request has not come in whole, silent ones among them, `waiting_limit` are kept at most: a new one ends the oldest.
    So they never use up the descriptors that whoever sends a request needs.
    """

    waiting_limit: ClassVar[int] = _MOST
    waiting: ClassVar[dict[BoundedProtocol, None]]
    """Those whose request has not come in whole, the oldest first."""
    _now: tuple[str, object] | None = None
    """What is waited for, and in which request."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("header", HEADER_SECONDS)
        while len(self.waiting) > self.waiting_limit:
            next(iter(self.waiting))._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._release()  # from here on the WebSocket's own pings find out whether somebody is there
        super().handle_websocket_upgrade(event)

    def _release(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        whole = not self.cycle.more_body
        self._enter("header", self.timeout_keep_alive if whole else _LINGER_SECONDS)
        super().on_response_complete()  # may begin the next request
        self._look()

    def _look(self) -> None:
        """What the connection waits for now."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if self.cycle.more_body:
            self._enter("body", _BODY_SECONDS)
        else:
            self._enter("answer", _ANSWER_SECONDS)

    def _enter(self, phase: str, seconds: float) -> None:
        """Begins a phase's time limit; one that has begun is not prolonged by drops of data."""
        now = (phase, self.cycle)
        if now == self._now and phase != "header":
            return
        self._now = now
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._give_up)
        if phase == "answer":
            self.waiting.pop(self, None)
        else:
            self.waiting.setdefault(self)

    def _give_up(self) -> None:
        self.waiting.pop(self, None)
        self.transport.abort()


class BoundedBodies:
    """An ASGI application whose requests have bodies of at most `most_bytes`, which come within `seconds`.

    More of them is an `HTTPException` where the application reads the body: 413, or 408.
    """

    def __init__(self, app: App, *, most_bytes: int, seconds: float = 20) -> None:
        self._app, self._most, self._seconds = app, most_bytes, seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"")
        too_large = told.isdigit() and int(told[:20]) > self._most
        loop, read, whole = asyncio.get_running_loop(), 0, False
        until = loop.time() + self._seconds

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # what is waited for now is that the client leaves
                return await receive()
            if too_large:
                raise _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise _refused(HTTPStatus.REQUEST_TIMEOUT) from None
            read += len(message.get("body", b""))
            if read > self._most:
                raise _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            whole = not message.get("more_body", False)
            return message

        await self._app({**scope, SERVERS_OWN: receive}, bounded, send)


def _refused(status: HTTPStatus) -> HTTPException:
    return HTTPException(status, headers={"Connection": "close"})


class _Server(uvicorn.Server):
    """Calls `ready` as soon as it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket on that port; 0: any that is free. Raises OSError if it is taken."""
    # asyncio sends small answers at once only on sockets that say they are TCP; on others each waits 40 ms for Nagle.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def serve(app: Any, listener: socket.socket, port_file: Path | None = None, *, log_level: str = "warning", **options: Any) -> None:
    """Serves until SIGTERM or Ctrl-C, and prints its address. `options` are uvicorn's."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def ready() -> None:
        if port_file is not None:
            write_atomic(port_file, str(port).encode())
        print(url, flush=True)

    with suppress(KeyboardInterrupt), _ending_well():
        _Server(_config(app, log_level=log_level, **options), ready).run([listener])


class ServedInThread:
    """Serves an application from a thread of its own while it is used as a context. `options` are uvicorn's."""

    def __init__(self, app: Any, listener: socket.socket, **options: Any) -> None:
        self._listener, self._answers = listener, threading.Event()
        usual: dict[str, Any] = {"lifespan": "off", "timeout_graceful_shutdown": 1, "log_level": "warning"}
        # The process has its own way of logging.
        self._server = _Server(_config(app, log_config=None, **{**usual, **options}), self._answers.set)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._answers.wait(_START_SECONDS):
            raise OSError("the server does not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        self._listener.close()


def _config(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn's, with limits that leave descriptors for whoever sends a request, and for the database."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    share = max(_FEWEST, min(descriptors // 8, _MOST) if descriptors != resource.RLIM_INFINITY else _MOST)
    limits = {"waiting_limit": min(3 * share, _MOST), "waiting": {}}
    usual: dict[str, Any] = {
        "http": type("Bounded", (BoundedProtocol,), limits),
        "ws": "none",
        "backlog": min(share, 2_048),  # so many are accepted at once, before any of them can be ended
        "limit_concurrency": 5 * share,
        "access_log": False,
        "server_header": False,
        "headers": [("X-Content-Type-Options", "nosniff")],
    }
    return uvicorn.Config(app, **{**usual, **options})


@contextmanager
def _ending_well() -> Iterator[None]:
    """uvicorn sends a SIGTERM that it has heard on to its process, which would end at once: without a goodbye of who runs it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
