"""Programs that a shell started in the background,
or `nohup`: SIGINT is ignored when they begin. SIGTERM ends them all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.worker import GRACE_SECONDS
from tests.conftest import HOME
from tests.integration.world import World
from tests.waiting import until

_PROGRAMS = {
    "worker": (
        ["-m", "deployments.cli", "worker", "--name", "in-the-background"],
        "started!",
        GRACE_SECONDS + 10,
    ),
    "web app": (["-m", "deployments.cli", "web", "--port", "0"], "http://", 10),
    "inventory service": (["-m", "deployments.cli", "inventory-service", "--port", "0"], "http://", 10),
    "sandbox": (["-m", "deployments.cli", "sandbox", "--port", "0"], "http://", 10),
}


@contextmanager
def in_the_background(
    arguments: list[str], log: Path, env: dict[str, str | None]
) -> Iterator[subprocess.Popen[bytes]]:
    """As `nohup python ... &` starts it."""
    merged = {
        name: value
        for name, value in {**os.environ, "PYTHONUNBUFFERED": "1", **env}.items()
        if value is not None
    }
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=HOME,
            env=merged,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("name", list(_PROGRAMS))
@pytest.mark.short_form("inventory service")
async def test_sigterm_ends_what_was_started_with_sigint_ignored(
    deployed: World, frail_prefect: PrefectServer, tmp_path: Path, name: str
) -> None:
    arguments, ready, grace = _PROGRAMS[name]
    log = tmp_path / "log"
    with in_the_background(arguments, log, frail_prefect.client_environment) as process:

        async def started() -> bool:
            assert process.poll() is None, log.read_text()
            return ready in log.read_text()

        await until(started, 60, f"the {name}")
        signalled = time.monotonic()
        process.send_signal(signal.SIGTERM)

        async def gone() -> bool:
            return process.poll() is not None

        await until(gone, grace, f"the {name} to end:\n{log.read_text()[-2000:]}")
        took = time.monotonic() - signalled
    assert took < grace, f"the {name} took {took:.1f} s"
