"""Whether a Prefect server is open to other machines,
also if its name resolves to this machine's loopback."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from deployments.check.servers import open_beyond_loopback
from tests.integration.scripted_server import answering_server, http

LOOK_UP = socket.getaddrinfo


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """From now on `shop-machine` is at these addresses; who connects to it is at 127.0.0.1."""

    def look_up(host: Any, port: Any, *how: Any, **more: Any) -> list[Any]:
        if host not in {"shop-machine", b"shop-machine"}:
            return LOOK_UP(host, port, *how, **more)
        return [
            found
            for each in ([*addresses] if port is None else ["127.0.0.1"])
            for found in LOOK_UP(each, port, *how, **more)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    ("addresses", "is_open"),
    [
        (["127.0.1.1"], False),
        (["127.0.0.1", "127.0.1.1"], False),
        (["192.0.2.7"], True),
        (["127.0.1.1", "192.0.2.7"], True),
    ],
)
async def test_a_name_that_means_this_machine_only_is_not_open(
    addresses: list[str], is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server listens on 127.0.0.1 only."""
    resolve(monkeypatch, *addresses)
    async with answering_server(http("3.0.0")) as server:
        url = f"{server.url.replace('127.0.0.1', 'shop-machine')}/api"
        assert await open_beyond_loopback(url) == (url if is_open else None)


async def test_an_address_of_loopback_is_not_open() -> None:
    async with answering_server(http("3.0.0")) as server:
        for host in ("localhost", "127.0.0.1", "0.0.0.0"):
            assert await open_beyond_loopback(f"{server.url.replace('127.0.0.1', host)}/api") is None
