"""A run starts in a process that has loaded the code before, and also if that process is gone."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.standby import runs_of
from deployments.standby_run import NO_RUN, RUN_ID_VARIABLE, _why_anew
from tests.faults.runs import run, start
from tests.faults.witness import order_of
from tests.integration.world import World
from tests.waiting import until


def waiting(worker: Worker) -> list[int]:
    """The processes of the worker that wait for a run."""
    found = []
    for process in psutil.Process(worker.pid).children():
        with suppress(psutil.Error):
            if process.environ().get(RUN_ID_VARIABLE) == str(NO_RUN):
                found.append(process.pid)
    return found


async def completed(world: World, order_id: str) -> None:
    async def ended() -> bool:
        stored = world.sql("SELECT outcome FROM customer_order WHERE id = :id", id=order_id)
        return bool(stored) and stored[0].outcome is not None

    await until(ended, 120, f"the outcome of {order_id}")
    assert world.order(order_id).outcome == "completed"
    assert (world.charges(order_id), world.shipments(order_id)) == (1, 1)


@pytest.mark.parametrize("fate", ["waits", "is killed"])
async def test_a_run_starts_whatever_became_of_the_process_that_waits(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str, fate: str
) -> None:
    async def is_there() -> bool:
        return bool(waiting(worker))

    await until(is_there, 60, "a process that waits")
    (standby,) = waiting(worker)
    if fate == "is killed":
        psutil.Process(standby).kill()
    order = order_of("good", unique)
    run_id = start(frail_prefect, "process-order", {"order": order})
    await completed(deployed, order["id"])
    assert (str(standby) in run(frail_prefect, run_id)["infrastructure_pid"]) is (fate == "waits")
    await until(is_there, 60, "the next process that waits")
    (standby,) = waiting(worker)
    worker.stop(grace=10)
    assert not psutil.pid_exists(standby)


async def test_only_processes_with_a_run_are_ended_gracefully(worker: Worker) -> None:
    async def is_there() -> bool:
        return bool(waiting(worker))

    await until(is_there, 60, "a process that waits")
    assert runs_of(psutil.Process(worker.pid)) == []


def test_what_is_loaded_serves_only_runs_of_the_same_code_and_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://one")
    now, given = time.time(), {**os.environ, RUN_ID_VARIABLE: "any"}
    assert _why_anew(given, now) is None
    assert "DATABASE_URL" in str(_why_anew({**given, "DATABASE_URL": "postgresql://another"}, now))
    assert "standby_run.py" in str(_why_anew(given, 0))
