"""Health of a worker over HTTP: `order-saga worker --with-healthcheck`.

- `GET /health`: 200 while the worker is alive: its event loop runs, and it polls, whatever the answer. 503:
  restart it.
- `GET /ready`: 200 while it takes work: it has started and does not stop, the Prefect server and the database
  have answered lately, and its work pool is not paused.

Both answer with the reasons. Replaces Prefect's own health check, at the same address
(`PREFECT_WORKER_WEBSERVER_HOST`, `PREFECT_WORKER_WEBSERVER_PORT`): Prefect's reports a worker as dead if
its server does not answer, although restarting the worker does not help.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from deployments.watched import why_unusable
from shop.runtime.http_server import ServedInThread, listen

if TYPE_CHECKING:
    from deployments.worker import OrdersWorker

log = logging.getLogger("shop.worker")

_LOOK_SECONDS = 3
"""Interval between two checks of the database and the event loop."""
_DATABASE_SECONDS = 3
"""Timeout of a check of the database."""
_SILENT_SECONDS = 15
"""How long the Prefect server or the database may not answer while the worker still counts as ready."""
_POLLS = 3
"""The same in intervals of polls, if that is longer."""
_STUCK_SECONDS = 60
"""How long the event loop may not run while the worker still counts as alive."""
_NOT_POLLING_SECONDS = 300
"""How long the worker may not try to poll while it still counts as alive, and how long starting may take. A
request to a Prefect server that does not answer is repeated for minutes."""


class WorkerHealth:
    """What is known about the health of a worker. Written by the worker, read by another thread."""

    def __init__(self) -> None:
        self._silent: float = _SILENT_SECONDS
        self._worker: OrdersWorker | None = None
        self._is_stopping = False
        self._database_trouble: str | None = None
        now = time.monotonic()
        self._ran = self._tried = self._polled = self._database = now

    def started(self, worker: OrdersWorker, *, poll_seconds: float) -> None:
        """Records that the worker works, and how often it polls."""
        self._silent = max(_SILENT_SECONDS, _POLLS * poll_seconds)
        self._worker = worker

    def stopping(self) -> None:
        """Records that the worker takes no more work."""
        self._is_stopping = True

    def polls(self) -> None:
        """Records that the worker begins to poll."""
        self._tried = time.monotonic()

    def polled(self) -> None:
        """Records that the Prefect server answered."""
        self._polled = time.monotonic()

    async def watch(self) -> None:
        """Checks the database and the event loop until it is cancelled."""
        while True:
            self._ran = time.monotonic()
            self._database_trouble = await why_unusable(_DATABASE_SECONDS)
            self._ran = time.monotonic()
            if self._database_trouble is None:
                self._database = self._ran
            await asyncio.sleep(_LOOK_SECONDS)

    def why_dead(self) -> list[str]:
        """Returns why the worker should be restarted; empty: it is alive."""
        now = time.monotonic()
        if self._is_stopping:
            return []
        if self._worker is not None and now - self._ran > _STUCK_SECONDS:
            return [f"the event loop has not run for {now - self._ran:.0f} s"]
        if now - self._tried > _NOT_POLLING_SECONDS:
            return [f"it has not polled for {now - self._tried:.0f} s"]
        return []

    def why_not_ready(self) -> list[str]:
        """Returns why the worker takes no work; empty: it does."""
        if self._is_stopping:
            return ["it is stopping"]
        if self._worker is None:
            return ["it is starting"]
        now, reasons = time.monotonic(), self.why_dead()
        if now - self._polled > self._silent:
            reasons.append(f"the Prefect server has not answered for {now - self._polled:.0f} s")
        if now - self._database > self._silent:
            trouble = self._database_trouble or "the database does not answer"
            reasons.append(f"{trouble}, for {now - self._database:.0f} s")
        return reasons + self._worker.why_paused()


@contextmanager
def serving(health: WorkerHealth, host: str, port: int) -> Iterator[int]:
    """Serves `/health` and `/ready` from a thread while the body runs; yields the port (0: any free one).
    Raises OSError if it is taken."""

    async def live(_: Request) -> JSONResponse:
        return _answer(health.why_dead())

    async def ready(_: Request) -> JSONResponse:
        return _answer(health.why_not_ready())

    listener = listen(port, host)
    bound = int(listener.getsockname()[1])
    with ServedInThread(Starlette(routes=[Route("/health", live), Route("/ready", ready)]), listener):
        log.info("the worker's health is at http://%s:%d/ready", host, bound)
        yield bound


def _answer(reasons: list[str]) -> JSONResponse:
    if reasons:
        return JSONResponse({"status": "unhealthy", "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE)
    return JSONResponse({"status": "ok", "reasons": []})
