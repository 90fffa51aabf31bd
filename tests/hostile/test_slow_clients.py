"""Clients that are silent, slow or endless,
against each of our servers as a process that may open 256 files."""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.local.postgres import EmbeddedPostgres
from deployments.local.processes import Child, free_port, wait_until
from shop.inventory.catalogue import load_sample_catalogue
from shop.runtime.http_server import HEADER_SECONDS
from tests.conftest import HOME
from tests.waiting import TIMEOUT_FACTOR

TOKEN = "a-token-for-hostile-tests"
DESCRIPTORS, CROWD = 256, 300
METRICS = "import threading, deployments.worker as worker\nwith worker.working(): threading.Event().wait()"
SERVERS = {
    "web app": ["-m", "deployments.cli", "web", "--port", "{port}"],
    "inventory service": ["-m", "deployments.cli", "inventory-service", "--port", "{port}"],
    "sandbox gateway": ["-m", "deployments.cli", "sandbox", "--port", "{port}"],
    "worker's metrics": ["-c", METRICS],
}
ALIVE = {"worker's metrics": "/metrics"}
"""Where it is asked whether it answers, if that is not `/health`."""


class Victim:
    """A server of ours."""

    def __init__(self, name: str, folder: Path, database_url: str) -> None:
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        python = [sys.executable, *(each.format(port=self.port) for each in SERVERS[name])]
        environment = {
            "DATABASE_URL": database_url,
            "VAR_DIR": str(folder),
            "INVENTORY_SERVICE_TOKEN": TOKEN,
            "ORDERS_API_KEY": TOKEN,
            "METRICS_PORT": str(self.port) if name == "worker's metrics" else "",
            "METRICS_TOKEN": "",
            "PAYMENT_GATEWAY": "stripe",
            "STRIPE_API_KEY": "sk_test_0123456789",
            "STRIPE_WEBHOOK_SECRET": "whsec_0123456789",
        }
        command = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", *python]
        self._child = Child(
            name, command, log=folder / "log", pid_file=folder / "pid", env=environment, cwd=HOME
        )

    def __enter__(self) -> Victim:
        self._child.start()
        wait_until(self.answers, 60, f"the {self.name} to answer", child=self._child)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return (
                httpx.get(self.url + ALIVE.get(self.name, "/health"), timeout=10, trust_env=False).status_code
                == 200
            )
        return False

    @property
    def memory(self) -> int:
        """Bytes that it has in memory."""
        assert self._child.pid is not None
        return int(psutil.Process(self._child.pid).memory_info().rss)


@pytest.fixture(scope="module")
def victims(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Victim]]:
    postgres.create_database("slow_clients", template=template_database)
    url = postgres.url("slow_clients")
    load_sample_catalogue(url)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Victim(name, tmp_path_factory.mktemp("server"), url))
            for name in SERVERS
        }
    postgres.drop_database("slow_clients")


@contextmanager
def connections(port: int, count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            if says:
                with suppress(OSError):  # it may have been ended already
                    made[-1].sendall(says)
        yield made
    finally:
        for each in made:
            each.close()


BEGINNINGS = {
    "nothing": b"",
    "half a header": b"GET /health HTTP/1.1\r\nHost: a\r\nX-Long: ",
    "no body": (
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: a\r\nStripe-Signature: t=1,v1=a\r\n"
        b"Content-Length: 1000\r\n\r\n{"
    ),
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param(
            name, says, marks=[] if name == "web app" or says == "half a header" else pytest.mark.slow
        )
        for name in SERVERS
        for says in BEGINNINGS
    ],
)
@pytest.mark.short_form("web app-half a header", "worker's metrics")
def test_it_answers_while_three_hundred_clients_send_no_whole_request(
    victims: dict[str, Victim], name: str, says: str
) -> None:
    victim = victims[name]
    with connections(victim.port, CROWD, BEGINNINGS[says]):
        for _ in range(5):
            assert victim.answers()


def test_a_client_without_a_complete_header_is_disconnected(victims: dict[str, Victim]) -> None:
    """Also who sends it drop by drop, and who has had an answer before."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        dripping: list[socket.socket] = []
        for victim in victims.values():
            for says in (b"", b"GET / HTTP/1.1\r\nX-Long: ", b"GET / HTTP/1.1\r\nX-Long: "):
                (client,) = stack.enter_context(connections(victim.port, 1, says))
                selector.register(client, selectors.EVENT_READ, f"{victim.name} with {says!r}")
            dripping.append(client)
        begin = time.monotonic()
        while selector.get_map() and time.monotonic() < begin + TIMEOUT_FACTOR * HEADER_SECONDS:
            for key, _ in selector.select(0.2):
                with suppress(ConnectionResetError):
                    assert key.fileobj.recv(1) == b"", key.data  # type: ignore[union-attr]
                selector.unregister(key.fileobj)
            for client in dripping:
                with suppress(OSError):
                    client.sendall(b"a")
        assert not selector.get_map(), [key.data for key in selector.get_map().values()]
        assert time.monotonic() - begin > HEADER_SECONDS / 2, "who is a little slow is waited for"


BODIES = {
    ("inventory service", ""): 401,
    ("inventory service", f"Authorization: Bearer {TOKEN}\r\n"): 413,
    ("web app", ""): 401,
    ("web app", f"Authorization: Bearer {TOKEN}\r\n"): 413,
    ("sandbox gateway", ""): 413,
    ("worker's metrics", ""): 405,
}
PATHS = {
    "inventory service": "/v1/reservations",
    "web app": "/orders",
    "sandbox gateway": "/v1/payments",
    "worker's metrics": "/metrics",
}
HUGE = 1_500_000_000


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(("name", "header"), BODIES)
def test_an_endless_body_is_not_kept_in_memory(
    victims: dict[str, Victim], name: str, header: str, sized: bool
) -> None:
    victim = victims[name]
    assert victim.answers()
    before = victim.memory
    length = f"Content-Length: {HUGE}" if sized else "Transfer-Encoding: chunked"
    begin = (
        f"POST {PATHS[name]} HTTP/1.1\r\nHost: a\r\n"
        f"{header}Content-Type: application/json\r\n{length}\r\n\r\n"
    )
    part = b" " * 1_000_000 if sized else b"F4240\r\n" + b" " * 1_000_000 + b"\r\n"
    sent, answer, most = 0, b"", before
    with connections(victim.port, 1, begin.encode()) as (client,):
        with suppress(OSError):  # it hangs up
            while sent < HUGE:
                client.sendall(part)
                sent += len(part)
                most = max(most, victim.memory)
        with suppress(OSError):
            answer = client.recv(1_000)
    assert most - before < 60_000_000
    assert not answer or int(answer.split()[1]) == BODIES[name, header]
    # who has not sent it yet can read the answer
    begin = begin.replace(f"{HUGE}", "5000001") + ("" if sized else part.decode() * 5)
    with connections(victim.port, 1, begin.encode()) as (client,):
        assert int(client.recv(1_000).split()[1]) == BODIES[name, header]
    assert victim.answers()


@pytest.mark.parametrize("name", SERVERS)
def test_its_pages_load_nothing_from_elsewhere(victims: dict[str, Victim], name: str) -> None:
    """Whatever is at a path that a framework would serve a page at."""
    for path in (
        "/",
        "/docs",
        "/redoc",
        "/docs/oauth2-redirect",
        "/health",
        "/openapi.json",
        "/metrics",
        "/no-such-page",
    ):
        answer = httpx.get(victims[name].url + path, timeout=10, trust_env=False)
        assert "html" not in answer.headers.get("content-type", ""), path
        assert answer.headers["x-content-type-options"] == "nosniff"
