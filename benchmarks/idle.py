"""Measures what the worker of `make run` and its runs cost while there are no orders, as a share of one core.

    python -m benchmarks.idle idle 120      # observes for 120 seconds; prints a line of JSON

Runs start only a few times an hour, so it measures the steady cost and the cost of one run of each scheduled
deployment, and adds them up at the rate of prefect.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import psutil
import yaml

from benchmarks.suite import Measured
from deployments.local.stack import HOME, Options, Stack

_DAY = 86_400
_SETTLING_SECONDS = 15
"""Time after the start of a consumer in which it still loads what it needs once."""
_LIMIT_SECONDS = 120


def intervals() -> dict[str, float]:
    """Returns the seconds between two runs of each deployment that prefect.yaml schedules by an interval."""
    described = yaml.safe_load((HOME / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return {
        each["entrypoint"].rsplit(".", 1)[1].replace("_", "-") + "/" + each["name"]: schedule["interval"]
        for each in described
        for schedule in each.get("schedules", [])
        if "interval" in schedule
    }


def cpu_seconds(root: psutil.Process) -> float:
    """Returns the CPU time of the process, of those that it started, and of those that have ended."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(seconds: float) -> Measured:
    """Runs a stack of its own for it."""
    for name in [name for name in os.environ if name.startswith("PREFECT_") or name == "DATABASE_URL"]:
        del os.environ[name]  # of the servers of another stack
    with tempfile.TemporaryDirectory(prefix="order-saga-idle-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user when this is root
        with Stack(Options(var_dir=Path(folder) / "var")) as stack:
            os.environ.update({name: value for name, value in stack.environment.items() if value is not None})
            if stack.worker is None or stack.worker.pid is None:
                raise RuntimeError("the worker does not run")
            return _measure(psutil.Process(stack.worker.pid), seconds)


def _measure(worker: psutil.Process, seconds: float) -> Measured:
    consumer, housekeeping = "process-pending-orders/process-pending-orders", "housekeeping/housekeeping"
    every = intervals()
    if every.keys() != {consumer, housekeeping}:
        raise RuntimeError(f"prefect.yaml schedules {sorted(every)}: measure those runs here")
    before, since = cpu_seconds(worker), time.monotonic()
    _start(consumer)
    _until(lambda: any(_is_run(child) for child in worker.children()), "the consumer to start")
    time.sleep(_SETTLING_SECONDS)
    started, settled = cpu_seconds(worker), time.monotonic()
    time.sleep(seconds)
    steady = (cpu_seconds(worker) - started) / (time.monotonic() - settled)
    costs = {consumer: started - before - steady * (settled - since)}

    before, since = cpu_seconds(worker), time.monotonic()
    run = _start(housekeeping, only_due=True)
    _until(lambda: _has_ended(run), "housekeeping to end")
    costs[housekeeping] = cpu_seconds(worker) - before - steady * (time.monotonic() - since)
    return {
        "seconds": seconds,
        "steady_cores": steady,
        "cores": steady + sum(max(0.0, costs[name]) / every[name] for name in every),
        "consumer_start_seconds": costs[consumer],
        "housekeeping_seconds": costs[housekeeping],
        "runs_per_day": sum(_DAY / interval for interval in every.values()),
    }


def _start(deployment: str, **parameters: object) -> UUID:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def _has_ended(run: UUID) -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    return state is not None and state.is_final()


def _is_run(process: psutil.Process) -> bool:
    try:
        return "PREFECT__FLOW_RUN_ID" in process.environ()
    except psutil.Error:
        return False


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _LIMIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {_LIMIT_SECONDS} s for {what}")
        time.sleep(0.5)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["idle"])
    parser.add_argument("seconds", type=float)
    sys.stdout.write(json.dumps(measure(parser.parse_args().seconds)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
