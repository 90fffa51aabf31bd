"""A gateway in front of another that passes every request on, and counts how many it has in hand at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


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
