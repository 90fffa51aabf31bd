"""The `shop` fixture, for `pytest_plugins` of the domain's tests:
one database for all of them, emptied before each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from saga.database import close_engine, sync_engine
from shop.inventory import catalogue
from shop.settings import settings
from tests.integration.domain import Shop


@pytest.fixture(scope="session")
async def domain_database(postgres: EmbeddedPostgres, template_database: str) -> AsyncIterator[str]:
    """A migrated database that the domain's tests share:
    emptying it takes milliseconds, making one ten times as long."""
    postgres.create_database("domain", template=template_database)
    url = postgres.url("domain")
    yield url
    with environment({"DATABASE_URL": url}):
        await close_engine()
        sync_engine(settings().database_url).dispose()
    postgres.drop_database("domain")


@pytest.fixture
async def shop(domain_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """An empty shop; settings name its database and the test's own folder."""
    monkeypatch.setattr(catalogue, "products", catalogue.ProductCache())
    with environment({"DATABASE_URL": domain_database, "VAR_DIR": str(tmp_path / "var")}):
        shop = Shop()
        await shop.empty()
        yield shop
