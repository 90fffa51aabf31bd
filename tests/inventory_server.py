"""An inventory service in a thread, over real HTTP, that can be made to fail in single ways."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import psycopg
import uvicorn

from deployments.inventory_service import create_app
from shop.inventory.service.contract import split_own_order_id
from shop.inventory.service.database import DatabaseInventory

TOKEN = "a-token-for-tests"


@dataclass
class Fault:
    """What becomes of the next `times` requests whose path ends so.
    `after`: the work is done all the same."""

    path: str
    kind: str
    """`silent`, `lost`, `rubbish`, `page`, or a status."""
    times: int = 1
    after: bool = False
    order_id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    kind_of_body: str = "text/html"


MISSING = "(missing)"


@dataclass
class Lie:
    """Answers to requests whose path ends so say `value` in a field (or have none: `MISSING`): each of them,
    or the first one only."""

    path: str
    field: str
    value: Any
    once: bool = False
    method: str = "POST"


class InventoryServer:
    """At `url`; `inventory` is what it serves,
    for tests that act or look past HTTP (in its own loop, by `do`)."""

    def __init__(self, database_url: str, *, expiry_seconds: float) -> None:
        self.database_url = database_url
        self.faults: list[Fault] = []
        self.lies: dict[str, Lie] = {}
        """The false answer about an order, by the shop's own id of it."""
        self.asked: list[str] = []
        """Paths, one for each request."""
        self.inventory = DatabaseInventory(database_url)
        self._app: Any = create_app(self.inventory, TOKEN, expiry_seconds=expiry_seconds)
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._serve,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
            interface="asgi3",
            lifespan="on",
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="inventory service")

    @property
    def settings(self) -> dict[str, str]:
        return {"INVENTORY_SERVICE_URL": self.url, "INVENTORY_SERVICE_TOKEN": TOKEN}

    def start(self) -> None:
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < end
            assert self._thread.is_alive()
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()

    def do(self, work: Any) -> Any:
        """Runs it where the service runs."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def name_of(self, order_id: str, try_number: int = 1) -> str:
        """What this try of a shop's order is called here, whichever shop reserved for it;
        the id as it is, if none did."""
        mark = f".{try_number}/" if try_number > 1 else "/"
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(
                "SELECT order_id FROM reservation WHERE order_id = %(id)s "
                "OR (order_id ~ '^[0-9a-f]{16}[./]' AND substr(order_id, 17) = %(name)s)",
                {"id": order_id, "name": mark + order_id},
            ).fetchall()
        (name,) = rows[0] if rows else (order_id,)
        return str(name)

    def misbehave(self, path: str, kind: str, **more: Any) -> None:
        self.faults.append(Fault(path, kind, **more))

    def behave(self) -> None:
        self.faults.clear()
        self.lies.clear()
        self.asked.clear()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._listener])

        asyncio.run(serve())

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append(scope["path"])
        fault = self._next(scope, body)
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        if fault is None:
            await self._app(scope, again, self._lying(scope, body, send))
            return
        if fault.after:

            async def nowhere(_: Any) -> None:
                """The answer is lost."""

            await self._app(scope, again, nowhere)
        await self._fail(fault, receive, send)

    def _lying(self, scope: Any, body: bytes, send: Any) -> Any:
        """`send`, with the false answer about the order instead of the true one."""
        asked = (
            json.loads(body).get("order_id", "")
            if body
            else parse_qs(scope["query_string"].decode()).get("order_id", [""])[0]
        )
        order_id = split_own_order_id(asked)[1]
        lie = self.lies.get(order_id)
        if lie is None or not scope["path"].endswith(lie.path) or scope["method"] != lie.method:
            return send
        begun: list[Any] = []

        async def lying(message: Any) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            (start,) = begun
            content = message["body"]
            if start["status"] == 200:
                answer_data = json.loads(content)
                if lie.value == MISSING:
                    answer_data.pop(lie.field)
                else:
                    answer_data[lie.field] = lie.value
                content = json.dumps(answer_data).encode()
                if lie.once:
                    del self.lies[order_id]
            headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(content)).encode())]})
            await send({"type": "http.response.body", "body": content})

        return lying

    def _next(self, scope: Any, body: bytes) -> Fault | None:
        order_id = json.loads(body).get("order_id") if body else None
        for fault in self.faults:
            if (
                fault.times > 0
                and scope["path"].endswith(fault.path)
                and fault.order_id in {None, order_id, split_own_order_id(order_id or "")[1]}
            ):
                fault.times -= 1
                return fault
        return None

    async def _fail(self, fault: Fault, receive: Any, send: Any) -> None:
        if fault.kind == "silent":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if fault.kind == "lost":
            receive.__self__.transport.abort()
            return
        status, content, kind = 200, fault.body, fault.kind_of_body
        if fault.kind == "rubbish":
            content, kind = b"\x00\xff{]", "application/json"
        elif fault.kind == "page":
            content = b"<!doctype html><p>Please sign in."
        elif fault.kind != "answer":
            status = int(fault.kind)
        headers = {"content-type": kind, "content-length": str(len(content)), **fault.headers}
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(n.encode(), v.encode()) for n, v in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": content})


@contextmanager
def inventory_server(database_url: str, *, expiry_seconds: float = 3600) -> Iterator[InventoryServer]:
    """On that database, which is migrated and stocked by whoever asks."""
    server = InventoryServer(database_url, expiry_seconds=expiry_seconds)
    server.start()
    try:
        yield server
    finally:
        server.stop()
