"""The engine's three tables for a store, as SQLAlchemy tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Identity, Index, Integer, MetaData, Table, Uuid, text
from sqlalchemy.schema import SchemaItem

from saga.columns import counter_column, creation_time, flag_column, json_column, text_column, time_column
from saga.database import Tx
from saga.store import SagaStore


def tables_of(
    store: SagaStore[Any],
    metadata: MetaData | None = None,
    *,
    instances: Sequence[SchemaItem] = (),
    journal: Sequence[SchemaItem] = (),
) -> tuple[Table, Table, Table]:
    """Returns the tables of instances, of their journal, and of leases. `metadata`: to which they are added.
    `instances`, `journal`: the owner's columns, constraints and indexes."""
    metadata = MetaData() if metadata is None else metadata
    return (
        _instances(store, metadata, instances),
        _journal(store, metadata, journal),
        _leases(store, metadata),
    )


def _instances(store: SagaStore[Any], metadata: MetaData, own: Sequence[SchemaItem]) -> Table:
    """The saga instances: who works on each, and where it ended."""
    return Table(
        store.instances,
        metadata,
        text_column("id", primary_key=True),
        # The sequence of arrival.
        Column("number", BigInteger, Identity(always=True), nullable=False),
        json_column("content", required=True),
        text_column("fingerprint", required=True),
        creation_time("submitted_at"),
        Column("lease_id", Uuid),
        # Grows with every claim; a journal write under an older one is refused.
        Column("fence", BigInteger, nullable=False, server_default=text("0")),
        counter_column("takeovers"),
        # How often its worker died while this was its only instance.
        counter_column("lone_deaths"),
        # The lease of the worker before the last takeover. That worker may live,
        # and have lost the database only.
        Column("taken_over_from", Uuid),
        # The instance is not claimed earlier.
        time_column("not_before"),
        time_column("started_at"),
        time_column("finished_at"),
        text_column("flow_run_id"),
        # For people: `received`, at the end the outcome; an owner may write more in between.
        text_column("status", required=True, server_default=text("'received'")),
        text_column("outcome"),
        text_column("failing_step"),
        # Why it is compensated; written before the first compensation,
        # so that another worker continues with it.
        json_column("failure"),
        json_column("reasons", default="[]"),
        json_column("undone", default="[]"),
        time_column("cancel_requested_at"),
        text_column("cancel_reason"),
        text_column("cancel_requested_by"),
        # The code of the error for which it was last postponed, and since when.
        text_column("waits_for"),
        time_column("waits_since"),
        *_open_indexes(store),
        *own,
    )


def _open_indexes(store: SagaStore[Any]) -> Iterator[Index]:
    """Yields the indexes that the engine's statements need, of open instances only. They stay small, so that
    reading them costs little however many instances have ended."""
    for name, column, condition in (
        ("open", "number", "outcome IS NULL"),
        ("cancelling", "cancel_requested_at", "cancel_requested_at IS NOT NULL AND outcome IS NULL"),
        ("taken_over", "taken_over_from", "taken_over_from IS NOT NULL AND outcome IS NULL"),
        ("suspected", "number", "outcome IS NULL AND takeovers >= 2"),
    ):
        yield Index(f"{store.instances}_{name}", column, postgresql_where=text(condition))


def _journal(store: SagaStore[Any], metadata: MetaData, own: Sequence[SchemaItem]) -> Table:
    """The journal: one row for each step of each instance that was begun.

    It has no foreign key to the instances: every write checks the fence of the instance, and so that it
    exists, in the same transaction.
    """
    return Table(
        store.journal,
        metadata,
        text_column(store.key, primary_key=True),
        text_column("step", primary_key=True),
        # The sequence of beginning: compensations run in its reverse.
        Column("number", BigInteger, Identity(), nullable=False),
        text_column("status", required=True),
        counter_column("attempts", start=1),
        creation_time("begun_at"),
        time_column("ended_at"),
        # Checkpoints: what the step must not forget between its moves.
        json_column("notes", default="{}"),
        json_column("result"),
        json_column("error"),
        # True from when the step began, until it is compensated or known to have had no effect.
        flag_column("undo_due"),
        text_column("undo_status"),
        counter_column("undo_attempts"),
        # The sequence of compensating, from the same counter as `number`.
        Column("undo_number", BigInteger),
        time_column("undo_begun_at"),
        time_column("undo_ended_at"),
        json_column("undo_result"),
        json_column("undo_error"),
        *own,
    )


def _leases(store: SagaStore[Any], metadata: MetaData) -> Table:
    """The right of a worker to its instances until a time; renewed while it works."""
    return Table(
        store.leases,
        metadata,
        Column("id", Uuid, primary_key=True),
        text_column("holder", required=True),
        time_column("until", required=True),
        # Whether another worker has claimed instances of it since it expired;
        # then its holder checks each instance's fence.
        flag_column("taken_from"),
        # How many open instances it had when it was first found expired; null while it is renewed.
        Column("orders_left", Integer),
        creation_time("began_at"),
        # What its holder has of limits that all workers share, and what it could use: {name: [held, wanted]}.
        json_column("shares", default="{}"),
    )


async def create_tables(tx: Tx, store: SagaStore[Any]) -> None:
    """Creates those of the tables that do not exist."""

    def create(connection: Connection) -> None:
        for table in tables_of(store):
            table.create(connection, checkfirst=True)

    await tx.run_sync(create)
