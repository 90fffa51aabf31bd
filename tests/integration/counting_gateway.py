"""A gateway in front of another that passes every request on, and counts how many are in progress at once;
and orders that use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from shop.orders import intake
from tests.integration.world import World, an_order


class Counting:
    """What it has seen."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.most = self.requests = self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Counting:
        with self._lock:
            self._now += 1
            self.requests += 1
            self.most = max(self.most, self._now)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


@contextmanager
def counting_gateway(url: str) -> Iterator[Counting]:
    """Passes on to the gateway at `url`, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in {"host", "content-length"}
            }
            with counted:
                answer = client.request(self.command, url + self.path, content=body, headers=headers)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815  (the standard library's names)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with httpx.Client(timeout=30) as client, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        counted = Counting(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield counted
        finally:
            server.shutdown()
            thread.join(10)


def submitted(prefix: str, number: int) -> list[str]:
    """Submits so many orders of one price. Returns their ids."""
    orders = [an_order(f"{prefix}-{i}", product="PROD-004", price="249.00") for i in range(number)]
    intake.submit(orders)
    return [str(order["id"]) for order in orders]


def assert_paid(saga: World, ids: list[str]) -> None:
    """Each of them is completed, and was charged once."""
    assert {saga.order(each).outcome for each in ids} == {"completed"}
    assert all(saga.money(each) == (Decimal(249), 0) for each in ids)
