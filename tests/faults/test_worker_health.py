"""A worker says over HTTP whether it lives and whether it takes work; and SIGTERM ends it in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.local.files import tail
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from deployments.local.processes import free_port
from deployments.trigger import start_own_run
from shop.orders import intake
from shop.orders.intake_content import take_in
from shop.runtime.http_server import listen
from tests.conftest import HOME
from tests.faults.runs import forget_runs
from tests.faults.silence import silent
from tests.faults.witness import all_ended, assert_right, mixed, order_of
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

_END_SECONDS = 30
"""What a container runtime gives a process to end after SIGTERM."""


class Served:
    """A worker with health checks, as `order-saga worker` starts it, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process, self.log, self._url = process, log, f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """The status, and the reasons. 0: no answer."""
        try:
            answer = httpx.get(self._url + path, timeout=10, trust_env=False)
        except httpx.HTTPError as error:
            return 0, type(error).__name__
        return answer.status_code, ", ".join(answer.json()["reasons"])

    async def until_ready(self, expected: int, seconds: float, reason: str = "") -> None:
        async def answers() -> bool:
            assert self.process.poll() is None, tail(self.log, 50)
            status, body = await asyncio.to_thread(self.get, "/ready")
            return status == expected and reason in body

        await until(answers, seconds, f"/ready to answer {expected} {reason}")

    def health(self, *options: str) -> int:
        """What `order-saga-health` exits with in a container whose process this is."""
        command = ["order-saga", "worker", "--with-healthcheck"]
        environment = {**os.environ, "PREFECT_WORKER_WEBSERVER_PORT": self._url.rpartition(":")[2]}
        done = subprocess.run(
            [sys.executable, "-m", "deployments.health", *options, *command],
            env=environment,
            cwd=HOME,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return done.returncode


@contextmanager
def a_worker(server: PrefectServer, folder: Path, **given: str) -> Iterator[Served]:
    port = free_port()
    environment: dict[str, Any] = {
        **os.environ,
        **server.client_environment,
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "1",
        "PREFECT_API_URL": server.api_url,
        **given,
    }
    command = [sys.executable, "-m", "deployments.cli", "worker", "--with-healthcheck", "--name", folder.name]
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=HOME,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Served(process, log, port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def pause(server: PrefectServer, *, paused: bool) -> None:
    httpx.patch(
        f"{server.api_url}/work_pools/orders", auth=server.auth, json={"is_paused": paused}, timeout=20
    ).raise_for_status()


async def test_ready_only_while_it_takes_work(
    deployed: World, frail_prefect: PrefectServer, tmp_path: Path
) -> None:
    """A worker whose dependencies are unavailable is alive: restarting it would not help."""
    with a_worker(frail_prefect, tmp_path) as worker:
        await worker.until_ready(200, 60)
        assert worker.get("/health") == (200, "")
        assert await asyncio.to_thread(worker.health) == 0
        pause(frail_prefect, paused=True)
        try:
            await worker.until_ready(503, 30, "the work pool orders is paused")
            assert worker.get("/health") == (200, "")
            assert await asyncio.to_thread(worker.health) == 1
            assert await asyncio.to_thread(worker.health, "--live") == 0
        finally:
            pause(frail_prefect, paused=False)
        await worker.until_ready(200, 30)
        frail_prefect.stop()
        try:
            await worker.until_ready(503, 60, "the Prefect server has not answered")
            assert worker.get("/health") == (200, "")
        finally:
            await asyncio.to_thread(frail_prefect.start)
        await worker.until_ready(200, 60)


@pytest.mark.slow
async def test_not_ready_without_its_database(
    frail: World, frail_postgres: EmbeddedPostgres, frail_prefect: PrefectServer, tmp_path: Path
) -> None:
    frail_prefect.start()
    with a_worker(frail_prefect, tmp_path) as worker:
        await worker.until_ready(200, 60)
        with silent(frail_postgres):
            await worker.until_ready(503, 60, "the database does not answer")
            assert worker.get("/health") == (200, "")
        await worker.until_ready(200, 60)


async def test_a_port_that_is_taken_is_reported_and_no_worker_starts(
    deployed: World, frail_prefect: PrefectServer, tmp_path: Path
) -> None:
    with listen(0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with a_worker(frail_prefect, tmp_path, PREFECT_WORKER_WEBSERVER_PORT=port) as worker:

            async def ended() -> bool:
                return worker.process.poll() is not None

            await until(ended, 60, "the worker to end")
            assert worker.process.returncode == 1
            assert f"127.0.0.1:{port}" in worker.log.read_text()


@pytest.mark.parametrize("server_unavailable", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_sigterm_ends_it_in_time_and_no_order_waits_for_its_lease(
    deployed: World,
    frail_prefect: PrefectServer,
    forkserver: Forkserver,
    tmp_path: Path,
    unique: str,
    report_line: Callable[[str], None],
    server_unavailable: bool,
) -> None:
    """In the middle of payments that last longer than it has to end, in both lanes. The leases would last for
    five minutes."""
    # What other tests have left would run in this worker, for this shop.
    forget_runs(frail_prefect, "process-order", "process-pending-orders")
    orders = mixed(unique, 20, flaky=False)
    own = order_of("good", f"{unique}-own")
    slow = {"LEASE_SECONDS": "300", "PAYMENT_TIMEOUT_SECONDS": "50"}
    deployed.misbehave(latency_ms=40_000)
    with a_worker(frail_prefect, tmp_path, **slow) as worker:
        await worker.until_ready(200, 60)
        intake.submit(list(orders.values()))
        await asyncio.to_thread(start_own_run, take_in(own))

        async def paying() -> bool:
            held = {
                row.id for row in deployed.sql("SELECT id FROM customer_order WHERE lease_id IS NOT NULL")
            }
            return own["id"] in held and len(held) > len(orders) / 2

        await until(paying, 60, "the payments")
        if server_unavailable:
            await asyncio.to_thread(frail_prefect.stop)
        asked = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)

        async def gone() -> bool:
            return worker.process.poll() is not None

        await until(gone, _END_SECONDS, "the worker to end")
        took = time.monotonic() - asked
        await asyncio.to_thread(frail_prefect.start)
        assert worker.process.returncode == 0
        report_line(f"the worker ended {took:.1f} s after SIGTERM")
        assert took < _END_SECONDS, tail(worker.log, 30)
        assert not deployed.sql("SELECT id FROM customer_order WHERE lease_id IS NOT NULL")
    deployed.misbehave(latency_ms=0)
    forkserver.consumer(60, env=slow)

    async def ended() -> bool:
        return all_ended(deployed)

    await until(ended, 60, "the orders to end elsewhere")
    assert_right(deployed, {**orders, own["id"]: own})
