"""A database with the tables of the tests' own saga; the tests share it, and it is emptied before each."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from saga.configuration import config
from saga.database import close_engine, sync_engine
from tests.saga.trips import Agency


@pytest.fixture(scope="session")
async def trips_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    postgres.create_database("trips")
    url = postgres.url("trips")
    with environment({"DATABASE_URL": url}):
        await Agency().create()
    yield url
    with environment({"DATABASE_URL": url}):
        await close_engine()
        sync_engine(config().database_url).dispose()
    postgres.drop_database("trips")


@pytest.fixture
async def agency(trips_database: str, tmp_path: Path) -> AsyncIterator[Agency]:
    """An empty database; settings name it."""
    with environment({"DATABASE_URL": trips_database, "VAR_DIR": str(tmp_path / "var")}):
        agency = Agency()
        await agency.empty()
        yield agency


@pytest.fixture
async def unretrieved() -> AsyncIterator[Callable[[], list[str]]]:
    """The event loop's reports of exceptions that were never retrieved."""
    loop, complaints = asyncio.get_running_loop(), list[str]()
    before = loop.get_exception_handler()
    gc.collect()  # what tests before this one left is not its complaint
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))

    def reported() -> list[str]:
        gc.collect()
        return complaints

    yield reported
    reported()
    loop.set_exception_handler(before)
