"""What a process answers at `/metrics`, whatever serves it; and a small server for processes without HTTP of their own."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shop.monitoring.exposition.families import inventory_families, process_families, reading_families, shop_families
from shop.monitoring.exposition.reading import Read, Reading
from shop.settings import settings

log = logging.getLogger(__name__)
PATH = "/metrics"
_AT_ONCE = 16
_REQUEST_SECONDS = 10
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
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())

    def answer(self, accept: str | None) -> tuple[bytes, str]:
        """The series, in the format that was asked for, and its content type."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type


def metrics_token() -> str | None:
    """What `METRICS_TOKEN` says."""
    secret = settings().metrics_token
    return secret.get_secret_value() if secret else None


class MetricsServer:
    """Serves an exposition at `/metrics`, from threads of its own, while it is used as a context. Raises OSError if the port is taken."""

    def __init__(self, exposition: Exposition, host: str, port: int) -> None:
        handler = type("Handler", (_Handler,), {"exposition": exposition, "turns": threading.BoundedSemaphore(_AT_ONCE)})
        server = type("Server", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
        self._server: ThreadingHTTPServer = server((host, port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics server", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who is turned away tries again seconds later

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone: nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    exposition: Exposition
    turns: threading.BoundedSemaphore
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "order-saga", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._send(HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n")
        elif not self.exposition.allows(self.headers.get("Authorization")):
            self._send(HTTPStatus.UNAUTHORIZED, b"the token is missing or wrong\n", **{"WWW-Authenticate": "Bearer"})
        elif not self.turns.acquire(timeout=_REQUEST_SECONDS):
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"too many ask at once\n")
        else:
            try:
                body, content_type = self.exposition.answer(self.headers.get("Accept"))
            finally:
                self.turns.release()
            self._send(HTTPStatus.OK, body, **{"Content-Type": content_type})

    def _send(self, status: HTTPStatus, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "text/plain; charset=utf-8"} | headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: scrapes are no news."""
