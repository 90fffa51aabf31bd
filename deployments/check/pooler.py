"""Detects a connection pooler in front of PostgreSQL by its effect on sessions."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum

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
