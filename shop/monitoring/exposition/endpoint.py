"""The answer at `/metrics`, and a small HTTP server for processes that have none."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from http import HTTPStatus

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shop.monitoring.exposition.families import (
    inventory_families,
    process_families,
    reading_families,
    shop_families,
)
from shop.monitoring.exposition.reading import Read, Reading
from shop.runtime.http_server import ServedInThread, listen
from shop.settings import settings

PATH = "/metrics"
About = Callable[[Read], Iterator[Metric]]


class _ShopCollector(Collector):
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
    """The metrics of one process. `answer` is thread-safe; it waits for the database only briefly."""

    def __init__(
        self,
        kind: str,
        *,
        database_url: str | None = None,
        inventory_only: bool = False,
        token: str | None = None,
    ) -> None:
        """`token`: the bearer token that callers need; None: none. `inventory_only`: the database has a stock
        and no shop."""
        self.token = token
        about = (inventory_families,) if inventory_only else (shop_families, inventory_families)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_ShopCollector(kind, Reading(database_url or settings().database_url), about))

    def allows(self, authorization: str | None) -> bool:
        """Returns whether a request with this `Authorization` header may read."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogatepass"), self.token.encode()
        )

    def answer(self, accept: str | None) -> tuple[bytes, str]:
        """Returns the series in the requested format, and its content type."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type


def metrics_token() -> str | None:
    secret = settings().metrics.token
    return secret.get_secret_value() if secret else None


class MetricsServer(ServedInThread):
    """Serves the metrics at `/metrics` from a thread of its own, while used as a context manager. Raises
    OSError if the port is taken."""

    def __init__(self, exposition: Exposition, host: str, port: int) -> None:
        listener = listen(port, host)
        self.port = int(listener.getsockname()[1])
        self._exposition = exposition
        super().__init__(Starlette(routes=[Route(PATH, self._read)]), listener)

    def _read(self, request: Request) -> Response:
        """Starlette runs this in a thread."""
        if not self._exposition.allows(request.headers.get("authorization")):
            return PlainTextResponse(
                "the token is missing or wrong\n", HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"}
            )
        body, content_type = self._exposition.answer(request.headers.get("accept"))
        return Response(body, headers={"Content-Type": content_type})
