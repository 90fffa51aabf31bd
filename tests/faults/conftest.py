"""Servers and worker processes of these tests' own, so that what is done to them disturbs nobody else."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deployments.stack.environment import environment
from deployments.stack.postgres import EmbeddedPostgres
from deployments.stack.prefect_server import PrefectServer
from deployments.stack.sandbox import Sandbox
from shop.catalogue import load_sample_catalogue
from shop.database import close_engine, sync_engine
from shop.migrate import upgrade
from shop.payments.gateways import close_gateway
from tests.faults.nursery import Nursery
from tests.faults.witness import stock_up
from tests.integration.conftest import saga, shop_environment, unique, world
from tests.integration.world import World

__all__ = ["saga", "shop_environment", "unique", "world"]

TEMPLATE = "migrated"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def running_nursery(world_dir: Path) -> Iterator[Nursery]:
    nursery = Nursery(world_dir / "nursery", world_dir / "run")
    try:
        nursery.start()
        yield nursery
    finally:
        nursery.stop()


@pytest.fixture
def nursery(running_nursery: Nursery) -> Iterator[Nursery]:
    """Worker processes for this test; those that are left at its end are ended."""
    yield running_nursery
    running_nursery.end_all()


@pytest.fixture(scope="session")
def frail_postgres(world_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that tests may restart and whose connections they may cut: nobody else is on it."""
    server = EmbeddedPostgres(world_dir / "frail-postgres")
    try:
        server.start()
        server.create_database(TEMPLATE)
        upgrade(server.url(TEMPLATE))
        yield server
    finally:
        server.stop("immediate")


@pytest.fixture
async def frail(frail_postgres: EmbeddedPostgres, sandbox: Sandbox, prefect_api: PrefectServer, tmp_path: Path) -> AsyncIterator[World]:
    """A stocked shop on the frail PostgreSQL. The gateway takes its time, so that there is a middle to disturb."""
    frail_postgres.start()
    name = f"frail_{next(_numbers)}"
    frail_postgres.create_database(name, template=TEMPLATE)
    world = World(frail_postgres.url(name), sandbox.url, tmp_path)
    with environment({"DATABASE_URL": world.database_url, "VAR_DIR": str(tmp_path), "PAYMENT_TIMEOUT_SECONDS": "1"}):
        load_sample_catalogue(world.database_url)
        stock_up(world)
        world.misbehave(latency_ms=100)
        yield world
        world.misbehave(latency_ms=0)
    sync_engine.cache_clear()
    await close_gateway()
    await close_engine()
