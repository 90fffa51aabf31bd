"""What a process answers at `/metrics`, whatever serves it; and a small server for processes without HTTP of their own."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shop.monitoring.exposition.families import inventory_families, process_families, reading_families, shop_families
from shop.monitoring.exposition.reading import Read, Reading
from shop.serving import Receive, Send, ServedInThread, listen
from shop.settings import settings

log = logging.getLogger(__name__)
PATH = "/metrics"
_AT_ONCE = 16
_TURN_SECONDS = 10
About = Callable[[Read], Iterator[Metric]]


class _Ours(Collector):
    def __init__(self, kind: str, reading: Reading, about: tuple[About, ...]) -> None:
        self._kind, self._reading, self._about = kind, reading, about

    def collect(self) -> Iterator[Metric]:
        yield from process_families(self._kind)
        read = self._reading.latest()
        yield from reading_families(read)
        if read is not None:
            for about in self._about:
                yield from about(read)


class Exposition:
    """Of one process. `answer` may be called from any thread; it waits for the database, though not for long."""

    def __init__(self, kind: str, *, database_url: str | None = None, inventory_only: bool = False, token: str | None = None) -> None:
        """`token`: what callers have to bring; None: nothing. `inventory_only`: the database is a stock, and no shop."""
        self.token = token
        about = (inventory_families,) if inventory_only else (shop_families, inventory_families)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_Ours(kind, Reading(database_url or settings().database_url), about))

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this header may read."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "surrogatepass"), self.token.encode())

    def answer(self, accept: str | None) -> tuple[bytes, str]:
        """The series, in the format that was asked for, and its content type."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type


def metrics_token() -> str | None:
    """What `METRICS_TOKEN` says."""
    secret = settings().metrics_token
    return secret.get_secret_value() if secret else None


class MetricsServer(ServedInThread):
    """Serves an exposition at `/metrics`, from a thread of its own, while it is used as a context. Raises OSError if the port is taken."""

    def __init__(self, exposition: Exposition, host: str, port: int) -> None:
        listener = listen(port, host)
        self.port = int(listener.getsockname()[1])
        self._exposition, self._turns = exposition, asyncio.Semaphore(_AT_ONCE)
        super().__init__(self._serve, listener, interface="asgi3")

    async def _serve(self, scope: Any, _: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] != PATH:
            await _send(send, HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n")
        elif scope["method"] not in {"GET", "HEAD"}:
            await _send(send, HTTPStatus.METHOD_NOT_ALLOWED, b"metrics can be read only\n", Allow="GET, HEAD")
        elif not self._exposition.allows(headers.get("authorization")):
            await _send(send, HTTPStatus.UNAUTHORIZED, b"the token is missing or wrong\n", **{"WWW-Authenticate": "Bearer"})
        elif (answer := await self._answer(headers.get("accept"))) is None:
            await _send(send, HTTPStatus.SERVICE_UNAVAILABLE, b"too many ask at once\n")
        else:
            await _send(send, HTTPStatus.OK, answer[0], **{"Content-Type": answer[1]})

    async def _answer(self, accept: str | None) -> tuple[bytes, str] | None:
        """None: the measurement did not get a turn in time."""
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            return None
        try:
            return await asyncio.to_thread(self._exposition.answer, accept)
        finally:
            self._turns.release()


async def _send(send: Send, status: HTTPStatus, body: bytes, **headers: str) -> None:
    named = {"Content-Type": "text/plain; charset=utf-8"} | headers | {"Content-Length": str(len(body))}
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": body})
