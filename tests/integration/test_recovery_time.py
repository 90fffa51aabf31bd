"""A run's process is killed, as a user's would be: through a worker.
Another run recovers its order, soon, and says so."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from deployments.local.programs import Worker
from flows.process_pending_orders import process_pending_orders
from saga.wakeup import is_consumer_running
from shop.orders.store import ORDERS
from tests.integration.world import World, an_order
from tests.waiting import until

_BAR_SECONDS = {"a consumer at work": 15, "nobody": 60}
"""From the kill to the outcome, with the default lease, by which other workers exist.
Without any, a process has to be started first."""


@pytest.fixture
async def slow_gateway(saga: World) -> AsyncIterator[None]:
    """Slow enough to be killed in the middle of a charge."""
    saga.misbehave(latency_ms=15_000)
    yield
    saga.misbehave(latency_ms=0)


@pytest.mark.alone
@pytest.mark.parametrize("there", ["a consumer at work", pytest.param("nobody", marks=pytest.mark.slow)])
async def test_an_order_whose_run_is_killed_is_recovered_and_linked(
    saga: World, worker: Worker, slow_gateway: None, unique: str, there: str
) -> None:
    order_id = f"KILLED-{unique}"
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("process-order/process-order")
        run = await client.create_flow_run_from_deployment(
            deployment.id, parameters={"order": an_order(order_id)}
        )

        async def charging() -> bool:
            return "process_payment" in (
                saga.journal(order_id) if saga.sql("SELECT 1 FROM customer_order") else {}
            )

        await until(charging, 60, "the charge to begin")
        if there != "nobody":  # only now, or it would have taken the order itself
            consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))

            async def consuming() -> bool:
                return is_consumer_running(ORDERS)

            await until(consuming, 30, "a consumer at work")
        victim = _process_of(run.id)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        saga.misbehave(latency_ms=0)

        async def ended() -> bool:
            return saga.order(order_id).outcome is not None

        await until(ended, 40, "the order's outcome")
        took = time.monotonic() - killed
        assert saga.order(order_id).outcome == "completed"
        assert saga.charges(order_id) == 1
        assert saga.shipments(order_id) == 1
        assert (await client.read_flow_run(run.id)).state_name == "Crashed"

        async def linked() -> bool:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["recovered-by"]))
            )
            return any(
                artifact.flow_run_id == run.id and order_id in str(artifact.data) for artifact in found
            )

        await until(linked, 20, "the link at the crashed run")
    if there != "nobody":
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    print(f"recovered after {took:.1f} s ({there})")
    assert took < _BAR_SECONDS[there], f"recovery took {took:.1f} s"


def _process_of(run_id: Any) -> int:
    for process in psutil.process_iter(["environ", "cmdline"]):
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == str(run_id):
            return int(process.pid)
    raise AssertionError(f"no process of run {run_id}")
