"""Recognises a connection pooler between us and PostgreSQL, by what it does to sessions."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum

import psycopg

from saga.connections import LimitedConnection, answered_within

_CONNECTIONS, _ROUNDS = 3, 3
_PID = "SELECT pg_backend_pid()"


class Pooler(StrEnum):
    """How it gives its clients connections to the server."""

    SESSION = "session mode"
    """Each client keeps its own for as long as it is connected: nothing is different from a direct connection."""
    TRANSACTION = "transaction mode"
    """Each transaction gets any: `LISTEN`, session settings and session locks do not last, and end up with other clients."""


def recognise_pooler(url: str, *, seconds: int = 5) -> Pooler | None:
    """Returns which pooler is behind the address (of psycopg itself); None: a connection is the server's own. Raises `psycopg.Error`.

    Several connections ask by turns which server process answers them. Of their own they are always answered by the same one, and each
    by another. A pooler hands out a process id of its own when a client connects.
    """
    with answered_within(3 * seconds), ExitStack() as stack:
        connections = [
            stack.enter_context(LimitedConnection.connect(url, autocommit=True, connect_timeout=seconds, prepare_threshold=None))
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
