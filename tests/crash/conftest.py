from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.stack.postgres import EmbeddedPostgres
from deployments.stack.sandbox import Sandbox
from tests.crash.site import Site
from tests.crash.workers import Workers

HOME = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def forgetful_sandbox(world_dir: Path) -> Iterator[Sandbox]:
    """A gateway of its own that ignores idempotency keys."""
    gateway = Sandbox(
        home=HOME, folder=world_dir / "forgetful", logs=world_dir / "logs" / "forgetful", pids=world_dir / "run" / "forgetful"
    )
    try:
        gateway.start()
        httpx.post(f"{gateway.url}/sandbox/behaviour", json={"forget_keys": True}, timeout=10).raise_for_status()
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def site(
    postgres: EmbeddedPostgres, template_database: str, sandbox: Sandbox, forgetful_sandbox: Sandbox, prefect_api: Any, world_dir: Path
) -> Iterator[Site]:
    """Servers, and workers to be killed."""
    folder = world_dir / "crash"
    folder.mkdir()
    environment = {name: value for name, value in prefect_api.client_environment.items() if value is not None}
    workers = Workers(folder, {**environment, "PREFECT_LOGGING_LEVEL": "ERROR", "LOG_LEVEL": "ERROR"})
    try:
        yield Site(postgres, template_database, folder, workers, {"remembers": sandbox.url, "forgets": forgetful_sandbox.url})
    finally:
        workers.close()


@pytest.fixture(scope="session")
def every(request: pytest.FixtureRequest) -> bool:
    """Whether every combination is asked for, and not each point once."""
    return bool(request.config.getoption("--every"))
