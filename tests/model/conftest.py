from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as rounds
from psycopg import sql

from deployments.stack.environment import environment
from shop import catalogue
from tests.model.core import one_core
from tests.model.drawing import EVENLY
from tests.model.world import World

# A history takes tenths of a second, and draws much: what the health checks measure is PostgreSQL, and how long a history is.
_USUAL = rounds(
    deadline=None,
    backend=EVENLY,
    stateful_step_count=5,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much],
)
rounds.register_profile("model", _USUAL, max_examples=int(__import__("os").environ.get("MODEL_N","400")), derandomize=True)
rounds.register_profile("model-long", _USUAL, max_examples=4000)


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
    with one_core(), little_garbage(), environment({"LEASE_SECONDS": "60", "MAX_TAKEOVERS": "3"}), closing(World(database_url)) as world:
        yield world
