from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from deployments.environment import environment
from saga.database import close_engine
from shop.inventory import catalogue
from shop.runtime.garbage import reduced_garbage_collection
from shop.runtime.installation import installation
from tests.model.core import one_core
from tests.model.drawing import SHARES
from tests.model.world import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "share" in metafunc.fixturenames:
        metafunc.parametrize("share", range(SHARES if metafunc.config.getoption("--histories") else 1))


async def _learn_installation() -> None:
    await installation()
    await close_engine()


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Leases are long, because the test says when they run out; few takeovers, so that giving up happens too.
    PostgreSQL need not write to the disk before it answers: nothing here is about its own death."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for setting in ("synchronous_commit = off", "plan_cache_mode = force_generic_plan"):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET " + setting).format(sql.Identifier(connection.info.dbname))
            )
    monkeypatch.setattr(catalogue, "products", catalogue.ProductCache())
    with ThreadPoolExecutor(1) as aside:  # reading it is no part of any history
        aside.submit(asyncio.run, _learn_installation()).result()
    with (
        one_core(),
        reduced_garbage_collection(),
        environment({"LEASE_SECONDS": "60", "MAX_TAKEOVERS": "3"}),
        closing(World(database_url)) as world,
    ):
        yield world
