"""Servers and worker processes for these tests only, so that faults affect no other tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.environment import environment
from deployments.local.files import tail
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import Deployments, PrefectServer
from deployments.local.programs import Sandbox, Worker
from deployments.setup.server import ensure_queues, ensure_work_pool
from saga.database import close_engine, sync_engine
from shop.inventory.catalogue import load_sample_catalogue
from shop.payments.gateways import close_gateway
from shop.runtime.migrate import upgrade
from tests.conftest import own_port
from tests.faults.runs import forget_runs
from tests.faults.witness import open_orders_report, stock_up
from tests.integration.conftest import saga, shop_environment, stripe_saga, unique, world
from tests.integration.world import World
from tests.worker_forkserver.forkserver import HOME, Forkserver

__all__ = ["saga", "shop_environment", "stripe_saga", "unique", "world"]

TEMPLATE = "migrated"
_numbers = itertools.count(1)


@pytest.fixture
def runnable_flows(prefect_api: PrefectServer) -> None:
    """Here flows always run on a real Prefect server."""


@pytest.fixture
def forkserver(running_forkserver: Forkserver, prefect_api: PrefectServer) -> Iterator[Forkserver]:
    """Worker processes for this test; those that are left at its end are ended."""
    yield running_forkserver
    running_forkserver.end_all()


@pytest.fixture(scope="session")
def frail_postgres(world_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that tests may restart and whose connections they may cut: it is not shared."""
    server = EmbeddedPostgres(world_dir / "frail-postgres")
    try:
        server.start()
        server.create_database(TEMPLATE)
        upgrade(server.url(TEMPLATE))
        yield server
    finally:
        server.stop("immediate")


@pytest.fixture
async def frail(
    frail_postgres: EmbeddedPostgres, sandbox: Sandbox, prefect_api: PrefectServer, tmp_path: Path
) -> AsyncIterator[World]:
    """A stocked shop on the frail PostgreSQL.
    The gateway takes its time, so that there is a middle to disturb."""
    frail_postgres.start()
    name = f"frail_{next(_numbers)}"
    frail_postgres.create_database(name, template=TEMPLATE)
    world = World(frail_postgres.url(name), sandbox.url, tmp_path)
    with environment(
        {"DATABASE_URL": world.database_url, "VAR_DIR": str(tmp_path), "PAYMENT_TIMEOUT_SECONDS": "1"}
    ):
        load_sample_catalogue(world.database_url)
        stock_up(world)
        world.misbehave(latency_ms=100)
        yield world
        world.misbehave(latency_ms=0)
    sync_engine.cache_clear()
    await close_gateway()
    await close_engine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its worker processes said, and where the orders stand."""
    report = yield
    if report.failed and call.when == "call":
        given = getattr(item, "funcargs", {})
        if isinstance(forkserver := given.get("forkserver"), Forkserver):
            report.sections += [(f"worker {name}", log_tail) for name, log_tail in forkserver.logs()]
        for world in (given.get("frail"), given.get("saga"), given.get("deployed")):
            if isinstance(world, World):
                report.sections.append(("open orders", open_orders_report(world)))
        if isinstance(worker := given.get("worker"), Worker):
            report.sections.append(("the Prefect worker", tail(worker.log, 100)))
    return report


@pytest.fixture(scope="session")
def frail_prefect(postgres: EmbeddedPostgres, world_dir: Path) -> Iterator[PrefectServer]:
    """A Prefect server that tests may stop, with the deployments.
    Their schedules are off: what happens has another cause."""
    folder = world_dir / "frail-prefect"
    own_port(folder)
    postgres.create_database("frail_prefect")
    places = {"logs": folder / "logs", "pids": folder / "run"}
    server = PrefectServer(home=HOME, folder=folder, database_url=postgres.url("frail_prefect"), **places)
    try:
        server.start()
        with environment(server.client_environment):
            ensure_work_pool()
            ensure_queues()
            deployments = Deployments(
                home=HOME, state=folder / "deployed.json", environment=server.client_environment, **places
            )
            deployments.register(server.api_url)
        with httpx.Client(base_url=server.api_url, auth=server.auth, timeout=20) as api:
            for deployment in api.post("/deployments/filter", json={}).raise_for_status().json():
                api.patch(f"/deployments/{deployment['id']}", json={"paused": True}).raise_for_status()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def deployed(
    world: World, frail_prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch, unique: str
) -> AsyncIterator[World]:
    """A stocked shop whose Prefect server is the frail one, which runs at first. Runs that earlier tests have
    left there belong to other databases, and are deleted."""
    frail_prefect.start()
    forget_runs(frail_prefect, "process-order", "process-pending-orders", "housekeeping")
    stock_up(world)
    with environment(frail_prefect.client_environment):
        yield world


@pytest.fixture
def worker(deployed: World, frail_prefect: PrefectServer, tmp_path: Path) -> Iterator[Worker]:
    """A process worker of that server. It has time for slow calls,
    and a short lease."""
    given = {**frail_prefect.client_environment, "PAYMENT_TIMEOUT_SECONDS": "50", "LEASE_SECONDS": "300"}
    run = frail_prefect.folder / "run"
    worker = Worker(
        home=HOME, logs=tmp_path / "logs", pids=run, environment=given, name=f"faults-{tmp_path.name}"
    )
    try:
        worker.start(frail_prefect.api_url)
        yield worker
    finally:
        worker.stop(grace=10)
