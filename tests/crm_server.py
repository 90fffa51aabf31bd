"""A CRM that takes webhooks, on a real socket in threads of its own.
Signatures are checked by the specification's own library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwdGhpcyBpcw=="


@dataclass(frozen=True)
class Received:
    """A message whose signature is right."""

    id: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Crm:
    """`answer`: status and headers; 200 if it says nothing."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What came and was not signed as it should be."""
    requests: int = 0
    answer: Callable[[Received], tuple[int, dict[str, str]]] = lambda _: (200, {})
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()


@contextmanager
def crm_server(secret: str = SECRET) -> Iterator[Crm]:
    """At `url`."""
    crm = Crm()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            crm.requests += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                received = Received(headers["webhook-id"], Webhook(secret).verify(body, headers), headers)
            except Exception as error:  # noqa: BLE001
                crm.wrong.append(repr(error))
                self._respond(400, {})
                return
            status, more = crm.answer(received)
            if status < 300:
                crm.received.append(received)
            crm.may_answer.wait(30)
            self._respond(status, more)

        do_GET = do_POST  # noqa: N815

        def _respond(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-length": "2", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # simultaneous connections are not refused

        def handle_error(self, *_: Any) -> None:
            """A client that is gone is none."""

    server = Server(("127.0.0.1", 0), Handler)
    crm.url = f"http://127.0.0.1:{server.server_port}/hooks"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="crm")
    thread.start()
    try:
        yield crm
    finally:
        crm.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join(20)
