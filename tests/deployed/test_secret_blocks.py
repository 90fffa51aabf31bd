"""A secret in a block of a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest
from prefect.blocks.system import Secret

import tasks  # noqa: F401  (what reads the blocks)
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from shop.settings import Settings
from tests.conftest import HOME


async def test_settings_read_it_also_inside_an_event_loop(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Secret(value="sk_test_PLANTED").save("planted-stripe-key", overwrite=True)  # type: ignore[misc, call-arg, arg-type]
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "planted-stripe-key")
    monkeypatch.delenv("STRIPE_API_KEY", raising=False)
    key = Settings().stripe.api_key
    assert key is not None
    assert key.get_secret_value() == "sk_test_PLANTED"
    monkeypatch.setenv("STRIPE_API_KEY_BLOCK", "not-there")
    with pytest.raises(
        ValueError, match="STRIPE_API_KEY_BLOCK=not-there cannot be read from the Prefect server"
    ):
        Settings()


async def test_the_migrations_reach_the_database_that_a_block_names(
    prefect_api: PrefectServer, postgres: EmbeddedPostgres
) -> None:
    postgres.create_database("named_by_a_block")
    url = postgres.url("named_by_a_block")
    await Secret(value=url).save("database-url", overwrite=True)  # type: ignore[misc, call-arg, arg-type]
    env = {**os.environ, "DATABASE_URL": "", "DATABASE_URL_BLOCK": "database-url"}

    command = [sys.executable, "-m", "deployments.cli", "migrate"]
    done = subprocess.run(
        command, cwd=HOME, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "named_by_a_block" in done.stdout
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('customer_order') IS NOT NULL").fetchone() == (True,)
    postgres.drop_database("named_by_a_block")
