from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.automations import ensure_automations
from deployments.local.prefect_server import Deployments, PrefectServer
from deployments.local.programs import Worker
from saga.database import close_engine, sync_engine
from shop.inventory.catalogue import load_sample_catalogue
from shop.payments.gateways import close_gateway
from shop.settings import settings
from tests.conftest import HOME
from tests.integration.stripe_world import StripeWorld
from tests.integration.world import World
from tests.localstripe_server import LocalStripe
from tests.without_prefect import without_prefect


@pytest.fixture
def shop_environment(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process's shop works on a fresh database and a fresh folder."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    sync_engine.cache_clear()
    settings.cache_clear()


@pytest.fixture
async def world(
    shop_environment: Path, sandbox: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A shop with the sample catalogue and a sandbox gateway; no Prefect."""
    monkeypatch.setenv("PAYMENT_GATEWAY_URL", sandbox.url)
    monkeypatch.setenv("PAYMENT_TIMEOUT_SECONDS", "2")
    settings.cache_clear()
    load_sample_catalogue(database_url)
    yield World(database_url, sandbox.url, shop_environment)
    await close_gateway()
    await close_engine()


@pytest.fixture
def runnable_flows(request: pytest.FixtureRequest) -> Iterator[None]:
    """Flows can run: as plain functions (`tests.without_prefect`), or on a real Prefect server if the test
    uses `prefect_api`."""
    if "prefect_api" in request.fixturenames:
        request.getfixturevalue("prefect_api")
        yield
    else:
        with without_prefect():
            yield


@pytest.fixture
def monkeypatch(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    """pytest's own, but undone before `runnable_flows` is: in the other sequence it would put back what that
    has replaced, for all later tests."""
    if "runnable_flows" in request.fixturenames:
        request.getfixturevalue("runnable_flows")
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def saga(world: World, runnable_flows: None) -> World:
    """A shop whose flows can run."""
    return world


@pytest.fixture
async def stripe_saga(
    shop_environment: Path,
    runnable_flows: None,
    localstripe: LocalStripe,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[StripeWorld]:
    """A shop with the sample catalogue that is paid through Stripe, whose flows can run."""
    for name, value in {**localstripe.settings, "PAYMENT_TIMEOUT_SECONDS": "10"}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    load_sample_catalogue(database_url)
    yield StripeWorld(database_url, localstripe.url, shop_environment, localstripe)
    await close_gateway()
    await close_engine()


@pytest.fixture
def unique() -> str:
    """For order ids: the sandbox's ledger lives longer than a test."""
    return uuid.uuid4().hex[:8]


@pytest.fixture
def worker(saga: World, prefect_api: PrefectServer, tmp_path: Path) -> Iterator[Worker]:
    """A worker for this test's shop, with everything deployed and the automations in place;
    nothing of it is left."""
    environment = {
        **prefect_api.client_environment,
        "DATABASE_URL": saga.database_url,
        "VAR_DIR": str(saga.var_dir),
        "PAYMENT_GATEWAY_URL": saga.gateway_url,
        "PAYMENT_TIMEOUT_SECONDS": "30",
    }
    parts: dict[str, Any] = {
        "home": HOME,
        "logs": tmp_path / "logs",
        "pids": tmp_path / "run",
        "environment": environment,
    }
    deployments = Deployments(state=tmp_path / "deployments.json", **parts)
    working = Worker(**parts)
    try:
        deployments.register(prefect_api.api_url)
        ensure_automations()
        working.start(prefect_api.api_url)
        yield working
    finally:
        working.stop()
        deployments.stop()
        with httpx.Client(base_url=prefect_api.api_url, auth=prefect_api.auth, timeout=20) as api:
            for kind in ("automations", "deployments"):
                for made in api.post(f"/{kind}/filter", json={}).raise_for_status().json():
                    api.delete(f"/{kind}/{made['id']}")
