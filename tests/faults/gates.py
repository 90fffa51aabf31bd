"""Gates in the database: a transaction that would write a certain row for a certain order waits there until
the gate is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_TABLES = ("reservation", "shipment", "outbox")
_CLASS = 4711
_MAKE = """
CREATE OR REPLACE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({number}, hashtext(TG_TABLE_NAME || ' ' || NEW.order_id));
    RETURN NEW;
END $$;
"""
_PUT = "CREATE OR REPLACE TRIGGER gate BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pass_gate();"


class Gates:
    """Gates at the rows of `reservation`, `shipment` and `outbox`; all open at first."""

    def __init__(self, connection: psycopg.Connection[tuple[int, ...]]) -> None:
        self._connection = connection

    def shut(self, table: str, order_id: str) -> None:
        self._connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_CLASS, f"{table} {order_id}"))

    def open(self, table: str, order_id: str) -> None:
        self._connection.execute(
            "SELECT pg_advisory_unlock(%s, hashtext(%s))", (_CLASS, f"{table} {order_id}")
        )

    def waiting(self, table: str, order_id: str) -> set[int]:
        """Which connections wait there."""
        rows = self._connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND NOT granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND objid::bigint = hashtext(%s)::bigint & 4294967295",
            (_CLASS, f"{table} {order_id}"),
        )
        return {row[0] for row in rows}


@contextmanager
def gates(database_url: str) -> Iterator[Gates]:
    """Puts the gates up. Whatever is shut at the end is opened."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_MAKE.format(number=_CLASS).encode())
        for table in _TABLES:
            connection.execute(_PUT.format(table=table).encode())
        yield Gates(connection)
