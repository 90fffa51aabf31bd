"""Connections to the database: limits on both sides, whichever way they are made."""

from __future__ import annotations

import socket
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

from saga.connections import ANSWER_SECONDS, NoAnswer, answered_within, seconds_left
from saga.database import (
    TRANSACTION_SECONDS,
    connect_args,
    engine,
    is_database_error,
    new_engine,
    sync_engine,
    transaction,
)
from saga.wakeup import FINISHED, listening_sync, plain_url
from shop.orders.store import ORDERS
from shop.settings import settings
from tests.integration.domain import Shop

pytest_plugins = ["tests.integration.domain_fixtures"]
TCP = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "connect_timeout",
)


def parameters(info: psycopg.ConnectionInfo) -> dict[str, Any]:
    return {name: value for name, value in info.get_parameters().items() if name in TCP}


async def test_every_kind_of_connection_has_the_limits_of_tcp(shop: Shop) -> None:
    url, found = settings().database_url, []
    async with engine().connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        found.append(parameters(raw.info))
    for made in (sync_engine(url), new_engine(url)):
        with made.connect() as plain:
            raw = plain.connection.driver_connection
            found.append(parameters(raw.info))
    with listening_sync(ORDERS, FINISHED) as listener:
        found.append(parameters(listener.info))
    assert all(set(each) == set(TCP) for each in found), found
    assert all(
        int(each["connect_timeout"]) <= 5 and 0 < int(each["tcp_user_timeout"]) <= 20_000 for each in found
    )


def test_what_the_address_says_of_them_holds() -> None:
    given = connect_args("postgresql+psycopg://shop@one/shop?keepalives_idle=77&tcp_user_timeout=5000")
    assert not {"keepalives_idle", "tcp_user_timeout"} & set(given)
    assert given["keepalives_count"] > 0


async def test_the_server_ends_what_a_client_that_is_gone_had_begun(shop: Shop) -> None:
    """Later than the client would, so that it is the client who says what happened."""
    async with transaction() as tx:
        seconds = (
            await tx.execute(
                text("SELECT setting::int / 1000 FROM pg_settings WHERE name = 'statement_timeout'")
            )
        ).scalar_one()
        idle = (
            await tx.execute(
                text("SELECT setting::int FROM pg_settings WHERE name LIKE 'idle_in_transaction%'")
            )
        ).scalar_one()
    assert max(ANSWER_SECONDS, TRANSACTION_SECONDS) < seconds < 600
    assert idle == settings().lease_seconds * 1000
    with sync_engine(settings().database_url).connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() != "0"


async def test_limits_within_limits(shop: Shop) -> None:
    assert seconds_left() == ANSWER_SECONDS
    with answered_within(5):
        with answered_within(50):
            assert seconds_left() <= 5
        with pytest.raises(Exception, match=r"gave no answer") as failed:
            async with transaction(seconds=0.3) as tx:
                await tx.execute(text("SELECT pg_sleep(60)"))
        assert is_database_error(failed.value)
        assert 0 < seconds_left() <= 5
    assert seconds_left() == ANSWER_SECONDS
    async with transaction() as tx:
        assert (await tx.execute(text("SELECT 1"))).scalar_one() == 1


async def test_no_free_connection_is_no_answer_either(shop: Shop) -> None:
    pool = engine().pool
    taken = [await engine().connect() for _ in range(pool.size() + 10)]  # type: ignore[attr-defined]
    try:
        with pytest.raises(NoAnswer) as failed:
            async with transaction(seconds=0.3):
                pass
        assert is_database_error(failed.value)
    finally:
        for connection in taken:
            await connection.close()
    async with transaction() as tx:
        assert (await tx.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_server_that_accepts_connections_and_sends_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy does that stopped forwarding."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@127.0.0.1:{port}/none")
        settings.cache_clear()
        assert conninfo_to_dict(plain_url())["port"] == str(port)
        with pytest.raises(Exception) as failed:  # noqa: PT011  (which of them, SQLAlchemy decides)
            async with transaction(seconds=1):
                pass
        assert is_database_error(failed.value)
        server.setblocking(False)
        server.accept()[0].close()  # it had been taken
    monkeypatch.undo()
    settings.cache_clear()
