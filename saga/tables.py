"""The engine's three tables for a store, as SQLAlchemy tables. An owner may add columns of its own, and
constraints and indexes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from saga.database import Tx
from saga.store import SagaStore


def tables_of(store: SagaStore[Any]) -> tuple[Table, Table, Table]:
    """Returns the tables of instances, of their journal, and of leases."""
    metadata = MetaData()
    instances = Table(
        store.instances,
        metadata,
        Column("id", Text, primary_key=True),
        Column("number", BigInteger, Identity(always=True), nullable=False),
        _json("content", nullable=False),
        Column("fingerprint", Text, nullable=False),
        _time("submitted_at", default="now()"),
        Column("lease_id", Uuid),
        Column("fence", BigInteger, nullable=False, server_default=text("0")),
        Column("takeovers", Integer, nullable=False, server_default=text("0")),
        Column("lone_deaths", Integer, nullable=False, server_default=text("0")),
        Column("taken_over_from", Uuid),
        _time("not_before"),
        _time("started_at"),
        _time("finished_at"),
        Column("flow_run_id", Text),
        Column("status", Text, nullable=False, server_default=text("'received'")),
        Column("outcome", Text),
        Column("failing_step", Text),
        _json("failure"),
        _json("reasons", default="[]"),
        _json("undone", default="[]"),
        _time("cancel_requested_at"),
        Column("cancel_reason", Text),
        Column("cancel_requested_by", Text),
        Column("waits_for", Text),
        _time("waits_since"),
    )
    Index(f"{store.instances}_open", instances.c.number, postgresql_where=text("outcome IS NULL"))
    journal = Table(
        store.journal,
        metadata,
        Column(store.key, Text, primary_key=True),
        Column("step", Text, primary_key=True),
        Column("number", BigInteger, Identity(), nullable=False),
        Column("status", Text, nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("1")),
        _time("begun_at", default="now()"),
        _time("ended_at"),
        _json("notes", default="{}"),
        _json("result"),
        _json("error"),
        Column("undo_due", Boolean, nullable=False, server_default=text("false")),
        Column("undo_status", Text),
        Column("undo_attempts", Integer, nullable=False, server_default=text("0")),
        Column("undo_number", BigInteger),
        _time("undo_begun_at"),
        _time("undo_ended_at"),
        _json("undo_result"),
        _json("undo_error"),
    )
    leases = Table(
        store.leases,
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("holder", Text, nullable=False),
        Column("until", DateTime(timezone=True), nullable=False),
        Column("taken_from", Boolean, nullable=False, server_default=text("false")),
        Column("orders_left", Integer),
    )
    return instances, journal, leases


async def create_tables(tx: Tx, store: SagaStore[Any]) -> None:
    """Creates those of the tables that do not exist."""

    def create(connection: Connection) -> None:
        for table in tables_of(store):
            table.create(connection, checkfirst=True)

    await tx.run_sync(create)


def _time(name: str, *, default: str | None = None) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=default is None, server_default=text(default) if default else None)


def _json(name: str, *, nullable: bool = True, default: str | None = None) -> Column[Any]:
    return Column(name, JSONB, nullable=nullable and default is None, server_default=text(f"'{default}'") if default else None)
