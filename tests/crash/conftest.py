from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.programs import Sandbox
from tests.conftest import own_port
from tests.crash.site import Site
from tests.crash.summary import Summary
from tests.crm_server import crm_server
from tests.easypost_server import EasyPost
from tests.inventory_server import TOKEN
from tests.localstripe_server import LocalStripe
from tests.mail_server import mail_server
from tests.worker_forkserver.forkserver import Forkserver

HOME = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def forgetful_sandbox(world_dir: Path) -> Iterator[Sandbox]:
    """A gateway of its own that ignores idempotency keys."""
    own_port(world_dir / "forgetful")
    gateway = Sandbox(
        home=HOME,
        folder=world_dir / "forgetful",
        logs=world_dir / "logs" / "forgetful",
        pids=world_dir / "run" / "forgetful",
    )
    try:
        gateway.start()
        httpx.post(
            f"{gateway.url}/sandbox/behaviour", json={"forget_keys": True}, timeout=10
        ).raise_for_status()
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def site(
    postgres: EmbeddedPostgres,
    template_database: str,
    sandbox: Sandbox,
    forgetful_sandbox: Sandbox,
    easypost_server: EasyPost,
    localstripe: LocalStripe,
    prefect_api: Any,
    running_forkserver: Forkserver,
    world_dir: Path,
) -> Iterator[Site]:
    """Servers, and workers to be killed."""
    folder = world_dir / "crash"
    folder.mkdir()
    gateways = {"remembers": sandbox.url, "forgets": forgetful_sandbox.url}
    with (
        mail_server() as mails,
        crm_server() as crm,
        environment({"INVENTORY_SERVICE_TOKEN": TOKEN}),  # the books ask the services
    ):
        yield Site(
            postgres,
            template_database,
            folder,
            running_forkserver,
            gateways,
            easypost_server,
            localstripe,
            mails,
            crm,
        )


_SUMMARY = pytest.StashKey[Summary]()


@pytest.fixture(scope="session")
def summary(request: pytest.FixtureRequest) -> Summary:
    """Is printed when the tests are over."""
    return request.config.stash.setdefault(_SUMMARY, Summary())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if made := config.stash.get(_SUMMARY, None):
        terminalreporter.write_line(f"\n{made.text(terminalreporter._tw.fullwidth)}")


@pytest.fixture(scope="session")
def every(request: pytest.FixtureRequest) -> bool:
    """Whether every combination is asked for, and not each point once."""
    return bool(request.config.getoption("--every"))
