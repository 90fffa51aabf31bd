"""Serves an HTTP application from one process, and prints its address once it accepts requests.

It limits the time of slow clients (`BoundedProtocol`). If you serve an app with a different server, set such
limits there.
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
"""Timeout of a request's header, from the start of the connection."""
_BODY_SECONDS = 30
"""Timeout of a request's body. An application may set a shorter one (`BoundedBodies`)."""
_ANSWER_SECONDS = 120
"""Timeout of an answer, until the client has read it."""
_LINGER_SECONDS = 5
"""Time to read an answer that was sent before the request's body was complete."""
SERVER_RECEIVE = "order_saga.receive"
"""Key in a request's scope: the server's original `receive`."""
_FEWEST, _MOST = 16, 4_096
"""Limits of the base unit for connection limits (see `_config`)."""
_START_SECONDS = 20
"""Timeout for starting the server, and for stopping it."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with timeouts for the client: to send the header, to send the body, to read the
    answer.

    Keeps at most `waiting_limit` connections with incomplete requests, including idle ones: a new one aborts
    the oldest. Therefore they cannot exhaust the file descriptors.
    """

    waiting_limit: ClassVar[int] = _MOST
    waiting: ClassVar[dict[BoundedProtocol, None]]
    """The connections with incomplete requests, oldest first."""
    _phase: tuple[str, object] | None = None
    """The phase whose timeout runs, and the request."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("header", HEADER_SECONDS)
        while len(self.waiting) > self.waiting_limit:
            next(iter(self.waiting))._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._release()  # from here on the WebSocket's pings detect dead clients
        super().handle_websocket_upgrade(event)

    def _release(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_phase()

    def on_response_complete(self) -> None:
        whole = not self.cycle.more_body
        self._enter("header", self.timeout_keep_alive if whole else _LINGER_SECONDS)
        super().on_response_complete()  # may start the next request
        self._update_phase()

    def _update_phase(self) -> None:
        """Starts the timeout of the request's current phase."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if self.cycle.more_body:
            self._enter("body", _BODY_SECONDS)
        else:
            self._enter("answer", _ANSWER_SECONDS)

    def _enter(self, phase: str, seconds: float) -> None:
        """Starts a phase's timeout. Partial data does not extend a running one."""
        now = (phase, self.cycle)
        if now == self._phase and phase != "header":
            return
        self._phase = now
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._abort)
        if phase == "answer":
            self.waiting.pop(self, None)
        else:
            self.waiting.setdefault(self)

    def _abort(self) -> None:
        self.waiting.pop(self, None)
        self.transport.abort()


class BoundedBodies:
    """ASGI middleware that limits request bodies to `most_bytes` bytes and `seconds` seconds.

    Where the application reads a body over the limits, raises `HTTPException` with status 413 or 408.
    """

    def __init__(self, app: App, *, most_bytes: int, seconds: float = 20) -> None:
        self._app, self._most, self._seconds = app, most_bytes, seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = dict(scope["headers"]).get(b"content-length", b"")
        too_large = content_length.isdigit() and int(content_length[:20]) > self._most
        loop, read, whole = asyncio.get_running_loop(), 0, False
        until = loop.time() + self._seconds

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # only waits for the client to disconnect
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

        await self._app({**scope, SERVER_RECEIVE: receive}, bounded, send)


def _refused(status: HTTPStatus) -> HTTPException:
    return HTTPException(status, headers={"Connection": "close"})


class _Server(uvicorn.Server):
    """A uvicorn server that calls `ready` as soon as it accepts requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Opens a socket on that port; 0: any free one. Raises OSError if it is in use."""
    # asyncio disables Nagle's algorithm, which delays small answers by 40 ms, only if the socket's protocol
    # is TCP.
    listener = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def serve(
    app: Any,
    listener: socket.socket,
    port_file: Path | None = None,
    *,
    log_level: str = "warning",
    **options: Any,
) -> None:
    """Prints the address and serves until SIGTERM or Ctrl-C. `options` are uvicorn's."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def ready() -> None:
        if port_file is not None:
            write_atomic(port_file, str(port).encode())
        print(url, flush=True)

    with suppress(KeyboardInterrupt), _handling_sigterm():
        _Server(_config(app, log_level=log_level, **options), ready).run([listener])


class ServedInThread:
    """Context manager that serves an application from a separate thread. `options` are uvicorn's."""

    def __init__(self, app: Any, listener: socket.socket, **options: Any) -> None:
        self._listener, self._answers = listener, threading.Event()
        defaults: dict[str, Any] = {"lifespan": "off", "timeout_graceful_shutdown": 1, "log_level": "warning"}
        # The process configures logging.
        self._server = _Server(_config(app, log_config=None, **{**defaults, **options}), self._answers.set)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="http server", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._answers.wait(_START_SECONDS):
            raise OSError(f"the HTTP server did not start within {_START_SECONDS} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        self._listener.close()


def _config(app: Any, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration, with limits that leave file descriptors for active requests and the
    database."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    share = max(_FEWEST, min(descriptors // 8, _MOST) if descriptors != resource.RLIM_INFINITY else _MOST)
    limits = {"waiting_limit": min(3 * share, _MOST), "waiting": {}}
    defaults: dict[str, Any] = {
        "http": type("Bounded", (BoundedProtocol,), limits),
        "ws": "none",
        "backlog": min(share, 2_048),  # as many are accepted at once, before any of them can be aborted
        "limit_concurrency": 5 * share,
        "access_log": False,
        "server_header": False,
        "headers": [("X-Content-Type-Options", "nosniff")],
    }
    return uvicorn.Config(app, **{**defaults, **options})


@contextmanager
def _handling_sigterm() -> Iterator[None]:
    """Exits normally on SIGTERM. uvicorn re-raises the signal after its shutdown, which would otherwise kill
    the process without cleanup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
