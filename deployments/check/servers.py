"""Detects a connection pooler in front of PostgreSQL by its effect on sessions, and a Prefect server that
other machines can use without a password."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum

import httpx
import psutil
import psycopg

from saga.connections import LimitedConnection, answered_within

_CONNECTIONS, _ROUNDS = 3, 3
_PID = "SELECT pg_backend_pid()"


class Pooler(StrEnum):
    """How the pooler assigns server connections to clients."""

    SESSION = "session mode"
    """Each client keeps one server connection, which is like a direct connection."""
    TRANSACTION = "transaction mode"
    """Each transaction gets any server connection: `LISTEN`, session settings and session locks do not
    last, and reach other clients."""


def recognise_pooler(url: str, *, seconds: int = 5) -> Pooler | None:
    """Returns the kind of pooler at the address (in psycopg's form); None for a direct connection. Raises
    `psycopg.Error`.

    Several connections alternately ask which server process answers. Direct connections always get the same
    process, each a different one. A pooler reports its own process id when a client connects.
    """
    with answered_within(3 * seconds), ExitStack() as stack:
        connections = [
            stack.enter_context(
                LimitedConnection.connect(
                    url, autocommit=True, connect_timeout=seconds, prepare_threshold=None
                )
            )
            for _ in range(_CONNECTIONS)
        ]
        answers = [[_server_process(connection) for connection in connections] for _ in range(_ROUNDS)]
        announced = [connection.info.backend_pid for connection in connections]
    if len(set(answers[0])) < _CONNECTIONS or any(round_ != answers[0] for round_ in answers):
        return Pooler.TRANSACTION
    return Pooler.SESSION if answers[0] != announced else None


def _server_process(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    row = connection.execute(_PID).fetchone()
    assert row is not None
    return int(str(row[0]))


_SECONDS = 3.0


async def open_beyond_loopback(api_url: str) -> str | None:
    """Returns the address at which the server answers other machines without authentication; None if there is
    none.

    For a server with a loopback name or address, also tries this machine's other addresses, because it may
    listen on all of them.
    """
    url = httpx.URL(api_url)
    hosts = addresses_beyond_loopback() if await _is_loopback(url.host) else [url.host]
    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
        for host in hosts:
            here = url.copy_with(host=host)
            try:
                # One of Prefect's own routes that requires the password if the server has one.
                answer = await client.get(f"{str(here).rstrip('/')}/admin/version")
            except httpx.HTTPError:
                continue
            if answer.status_code == httpx.codes.OK:
                return str(here)
    return None


async def _is_loopback(host: str) -> bool:
    """Whether the address means only this machine. Many systems resolve their own name to 127.0.1.1."""
    try:
        async with asyncio.timeout(_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return bool(addresses) and all(address.is_loopback or address.is_unspecified for address in addresses)


def addresses_beyond_loopback() -> Iterator[str]:
    """Yields this machine's addresses beyond loopback, without link-local ones."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family in {socket.AF_INET, socket.AF_INET6}:
                address = ipaddress.ip_address(found.address.partition("%")[0])
                if not address.is_loopback and not address.is_link_local:
                    yield str(address)
