"""`order-saga worker`: Prefect's process worker for the pool `orders`, one that stops well and keeps orders moving.

Told to stop (SIGTERM, Ctrl-C), Prefect's own kills its runs outright, and their orders wait until the lease runs out. This one tells the
runs first: each finishes the step in hand or hands its orders back, and whoever else is there goes on with them at once.

While it runs it watches the orders that wait: when nobody claims them for three seconds, it starts a consumer, a run of
`process-pending-orders`. So killed consumers cost seconds, whatever they had claimed, and whether or not a schedule is due.

It takes only so many runs at once as memory and database connections are enough for (`--limit`, `WORKER_LIMIT`), and leaves some of these
places to everything but runs of `process-order`.

Further options are those of `prefect worker start`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self
from uuid import UUID

import anyio
import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.workers.process import ProcessWorker

from deployments.capacity import OWN_RUNS_QUEUE, own_run_places, worker_limit
from deployments.local.signals import heed_signals
from deployments.local.worker import POOL
from deployments.watched import watched
from flows.consumers import LOOK_SECONDS, Watch
from shop.runtime.logs import configure

log = logging.getLogger("shop.worker")

GRACE_SECONDS = 15
"""For so long the runs that were told to go are waited for. A consumer goes on with what it has in hand for a third of it."""
_LONGEST_PAUSE_SECONDS = 8
"""Between two looks at the waiting orders, while the database or the Prefect server does not answer."""
_ITS_RUN = "PREFECT__FLOW_RUN_ID"

with warnings.catch_warnings(action="ignore"):  # that it takes the other one's place

    class OrdersWorker(ProcessWorker):
        """Takes the place of Prefect's own process worker in this process."""

        type = "process"

        def __init__(self, work_pool_name: str, *, limit: int | None = None, **options: Any) -> None:
            """Without a limit (`--limit`) it gives itself one."""
            super().__init__(work_pool_name, limit=limit or worker_limit(), **options)
            self._own_runs: set[UUID] = set()
            self._watching: asyncio.Task[None] | None = None

        async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
            """Leaves runs of `process-order` that would take the last places where they are: they are Late until one is free."""
            return await super()._submit_scheduled_flow_runs(self._with_a_place(flow_run_response))

        def _with_a_place(self, found: list[WorkerFlowRunResponse]) -> list[WorkerFlowRunResponse]:
            places = own_run_places(int(self.limiter.total_tokens))
            running = set(self.limiter.statistics().borrowers)
            self._own_runs &= running  # the others have ended, or never began
            fitting = []
            for each in found:
                run = each.flow_run
                if run.id in running:  # rescheduled by hand while its process lives: Prefect's worker would end at a second place for it
                    continue
                if run.work_queue_name == OWN_RUNS_QUEUE and run.id not in self._own_runs:
                    if len(self._own_runs) >= places:
                        continue
                    self._own_runs.add(run.id)
                fitting.append(each)
            return fitting

        async def __aenter__(self) -> Self:
            await super().__aenter__()
            self._watching = asyncio.create_task(keep_orders_moving(), name="keep-orders-moving")
            return self

        async def __aexit__(self, *exc_info: Any) -> None:
            """No more runs are taken by now. Those that are left are told to go, and then stopped."""
            if self._watching is not None:
                self._watching.cancel()
            with anyio.CancelScope(shield=True):
                await _let_runs_go(GRACE_SECONDS)
            await super().__aexit__(*exc_info)


async def keep_orders_moving() -> None:
    """Starts a consumer whenever orders wait and nobody claims them. Ends when it is cancelled."""
    watch, pause = Watch(), LOOK_SECONDS
    while True:
        try:
            await watch.look()
            pause = LOOK_SECONDS
        except Exception as error:  # noqa: BLE001  (the database or the Prefect server does not answer, or nothing is deployed yet)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            log.warning("waiting orders could not be looked after (%s); trying again in %.0f s", type(error).__name__, pause)
        await asyncio.sleep(pause)


async def _let_runs_go(seconds: float) -> None:
    """Sends SIGTERM to the processes of this worker's runs, and waits until they have ended, at most so long."""
    left = [child for child in psutil.Process().children() if _is_run(child)]
    for child in left:
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    while any(_lives(child) for child in left) and time.monotonic() < until:  # noqa: ASYNC110  (Prefect waits for them: it is theirs to reap)
        await asyncio.sleep(0.05)


def _is_run(process: psutil.Process) -> bool:
    try:
        return _ITS_RUN in process.environ()
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextmanager
def working() -> Iterator[None]:
    """Around the worker's life: what ends it, and how it is watched."""
    heed_signals()
    configure()
    with watched("worker", own_port=True):
        yield


def work(options: Sequence[str]) -> None:
    """Runs the worker until it is stopped. `options`: of `prefect worker start`."""
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "1")
    sys.argv = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", *options]
    with working():
        importlib.import_module("prefect.cli").app()
