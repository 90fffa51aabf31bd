from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import sql

from deployments.stack.environment import environment
from shop import catalogue
from tests.model.core import one_core
from tests.model.drawing import SHARES
from tests.model.world import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "share" in metafunc.fixturenames:
        metafunc.parametrize("share", range(SHARES if metafunc.config.getoption("--histories") else 1))


@contextmanager
def little_garbage() -> Iterator[None]:
    """What is loaded stays, and looking through it again and again for garbage costs a tenth of the time."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Leases are long, because the test says when they run out; few takeovers, so that giving up happens too. PostgreSQL need not
    write to the disk before it answers: nothing here is about its own death."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for setting in ("synchronous_commit = off", "plan_cache_mode = force_generic_plan"):
            connection.execute(sql.SQL("ALTER DATABASE {} SET " + setting).format(sql.Identifier(connection.info.dbname)))
    monkeypatch.setattr(catalogue, "products", catalogue.ProductCache())
    with (
        one_core(),
        little_garbage(),
        environment({"LEASE_SECONDS": "60", "MAX_TAKEOVERS": "3"}),
        closing(World(database_url)) as world,
    ):
        yield world
