"""The migrations make exactly the tables that the code knows,
however often and by however many they are run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlmodel import SQLModel

import shop.tables
from shop.runtime.installation import installation_id
from shop.runtime.migrate import config, upgrade
from shop.settings import Settings, settings

assert shop.tables.orders.CUSTOMER_ORDER.metadata is SQLModel.metadata


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    engine = create_engine(Settings(DATABASE_URL=url).database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def empty_url(postgres: Any) -> Iterator[str]:
    """A database without any table."""
    name = f"empty_{uuid4().hex[:8]}"
    postgres.create_database(name)
    yield postgres.url(name)
    postgres.drop_database(name)


def schema(connection: Connection) -> dict[str, list[Any]]:
    """Everything that PostgreSQL knows about the tables, constraints and indexes by their definitions."""
    queries = {
        "columns": (
            "SELECT table_name, column_name, data_type, numeric_precision, numeric_scale, is_nullable, "
            "column_default, is_identity, identity_generation FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
        ),
        "constraints": (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'"
        ),
        "options": (
            "SELECT relname, relkind, reloptions FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic_version%'"
        ),
        "indexes": (
            "SELECT tablename, indexname, indexdef FROM pg_indexes "
            "WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        ),
    }
    return {name: sorted(map(repr, connection.execute(text(query)))) for name, query in queries.items()}


def test_the_migrations_make_the_tables_of_the_code(database_url: str) -> None:
    with connected(database_url) as engine, engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, SQLModel.metadata) == []
        made = set(inspect(connection).get_table_names())
    assert made == {*SQLModel.metadata.tables, "alembic_version"}


def test_defaults_checks_and_indexes_are_the_same_too(database_url: str, empty_url: str) -> None:
    """Alembic does not compare all of them; PostgreSQL's catalogue has them all."""
    with connected(empty_url) as engine, engine.begin() as connection:
        SQLModel.metadata.create_all(connection)
        by_the_code = schema(connection)
    with connected(database_url) as engine, engine.connect() as connection:
        by_the_migrations = schema(connection)
    assert by_the_migrations == by_the_code
    assert all(len(found) > 5 for found in by_the_code.values())


def test_upgrading_twice_is_harmless(empty_url: str) -> None:
    upgrade(empty_url)
    with connected(empty_url) as engine:
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO product (id, name, received, on_hand) VALUES ('P', 'P', 3, 3)")
            )
            before = schema(connection)
        upgrade(empty_url)
        with engine.connect() as connection:
            assert schema(connection) == before
            assert connection.execute(text("SELECT on_hand FROM product")).scalars().all() == [3]


def test_many_upgrades_at_once_are_harmless(empty_url: str, database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [empty_url] * 4))
    with connected(empty_url) as engine, engine.connect() as connection:
        made = schema(connection)
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    with connected(database_url) as engine, engine.connect() as connection:
        assert schema(connection) == made


def test_orders_that_needed_attention_before_the_review_queue_are_in_it(empty_url: str) -> None:
    with connected(empty_url) as engine:
        with engine.begin() as connection:
            command.upgrade(config(connection), "0001")
            connection.execute(
                text(
                    "INSERT INTO customer_order "
                    "(id, content, fingerprint, outcome, finished_at, amount_at_risk, amount_charged) VALUES "
                    "('OLD', '{}', 'x', 'needs_attention', '2026-01-02 03:04:05+00', 12.5, 12.5), "
                    "('FINE', '{}', 'x', 'completed', now(), 0, 1)"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO order_step (order_id, step, status, undo_due, undo_status, undo_error) "
                    "VALUES ('OLD', 'process_payment', 'done', true, 'failed', "
                    """'{"code": "refund_refused", "message": "no"}'), """
                    "('OLD', 'check_inventory', 'done', false, 'done', NULL)"
                )
            )
        upgrade(empty_url)
        with engine.begin() as connection:
            (row,) = connection.execute(text("SELECT * FROM attention")).all()
    assert (row.order_id, row.step, row.amount_at_risk, row.last_error) == (
        "OLD",
        "process_payment",
        Decimal("12.5"),
        "no",
    )
    assert row.since.astimezone(UTC) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row.next_retry_at is not None


def test_notices_by_mail_and_webhook_become_those_of_alert_urls(empty_url: str) -> None:
    with connected(empty_url) as engine:
        with engine.begin() as connection:
            command.upgrade(config(connection), "0015")
            connection.execute(
                text(
                    "INSERT INTO alert (rule, subject, resource, value, threshold, details) "
                    "VALUES ('r', 's', 'x', 1, 0, '{}')"
                )
            )
            rows = "SELECT id, 'raised', way FROM alert, unnest(ARRAY['event', 'mail', 'webhook']) AS way"
            connection.execute(text(f"INSERT INTO alert_notice (alert_id, phase, way) {rows}"))
        upgrade(empty_url)
        ways = text("SELECT way FROM alert_notice ORDER BY way")
        with engine.begin() as connection:
            assert connection.execute(ways).scalars().all() == ["event", "url-1", "url-2"]
            connection.execute(
                text(
                    "INSERT INTO alert_notice (alert_id, phase, way) SELECT id, 'raised', 'url-3' FROM alert"
                )
            )
            command.downgrade(config(connection), "0015")
            assert connection.execute(ways).scalars().all() == ["event", "mail", "webhook"]


def test_what_was_in_stock_before_deliveries_were_recorded_is_an_opening_delivery(empty_url: str) -> None:
    with connected(empty_url) as engine:
        with engine.begin() as connection:
            command.upgrade(config(connection), "0020")
            connection.execute(
                text(
                    "INSERT INTO product (id, name, received, on_hand) "
                    "VALUES ('P', 'P', 30, 12), ('EMPTY', 'E', 0, 0)"
                )
            )
        upgrade(empty_url)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT items FROM delivery")).scalars().all() == [{"P": 30}]


async def test_each_database_gets_an_installation_id_of_its_own_and_keeps_it(
    database_url: str, empty_url: str
) -> None:
    def id_in(url: str) -> str:
        with connected(url) as engine, engine.connect() as connection:
            return str(connection.execute(text("SELECT id FROM installation")).scalar_one())

    upgrade(empty_url)
    first = id_in(empty_url)
    upgrade(empty_url)
    assert id_in(empty_url) == first != id_in(database_url)
    assert await installation_id() == id_in(settings().database_url)
