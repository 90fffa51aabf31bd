"""A machine dies: the worker and its run at once,
so that no process can report it. Prefect detects the missing heartbeats."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from deployments.automations import ensure_automations
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import start_own_run
from shop.orders.intake_content import take_in
from tests.faults.witness import all_ended, assert_right, order_of
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import HOME

pytestmark = pytest.mark.slow
_SILENCE_SECONDS = 240
"""Three heartbeats that do not come, and a server that looks for them now and then."""


async def test_a_run_that_falls_silent_has_crashed_and_its_order_is_recovered(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, tmp_path: Path, unique: str
) -> None:
    """No schedule runs here, and no consumer: only the automations can have done it."""
    ensure_automations()
    order = order_of("good", unique, payment_info={"method": "credit_card", "card_last4": "0341"})
    run = await asyncio.to_thread(start_own_run, take_in(order))

    async def charged() -> bool:
        return deployed.charges(order["id"]) == 1

    await until(charged, 60, "the charge")
    assert worker.pid is not None
    dead = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in dead:
        os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    # the default; this worker's was longer
    deployed.sql("UPDATE lease SET until = now() + interval '8 seconds'")

    given = {**frail_prefect.client_environment, "PAYMENT_TIMEOUT_SECONDS": "5"}
    another = Worker(
        home=HOME,
        logs=tmp_path / "another",
        pids=tmp_path / "another-run",
        environment=given,
        name=f"another-{unique}",
    )
    try:
        another.start(frail_prefect.api_url)
        async with get_client() as client:

            async def crashed() -> bool:
                return (await client.read_flow_run(run.id)).state_name == "Crashed"

            await until(crashed, _SILENCE_SECONDS, "the run to be shown as crashed")
            print(f"crashed after {time.monotonic() - killed:.0f} s")

            async def ended() -> bool:
                return all_ended(deployed)

            await until(ended, 60, "the order's outcome")

            async def linked() -> bool:
                found = await client.read_artifacts(
                    artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["recovered-by"]))
                )
                return any(artifact.flow_run_id == run.id for artifact in found)

            await until(linked, 30, "the link from the crashed run to the one that recovered its order")
    finally:
        another.stop()
    assert_right(deployed, {order["id"]: order})
    assert deployed.sql("SELECT takeovers FROM customer_order") == [(1,)]
