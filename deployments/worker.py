"""Prefect's process worker for the pool `WORKER_POOL`, with a graceful shutdown and automatic consumers:
`order-saga worker`.

On SIGTERM or Ctrl-C, Prefect's own worker kills its runs outright, and their orders wait until the lease
expires. This worker first sends SIGTERM to the runs: each finishes its current step or releases its orders,
and other workers continue with them at once.

While it runs, it watches waiting orders: if no worker claims them for three seconds, it starts a consumer, a
run of `process-pending-orders`. So killed consumers cost seconds, whatever they had claimed, and whatever the
schedule is.

It limits its concurrent runs to what memory and database connections allow (`--limit`, `WORKER_LIMIT`). Some
places are closed to the runs of each work queue, so that runs of queues of higher priority always start; and
all workers together run `MOST_ORDER_RUNS` of `process-order` at most. Runs start in processes that have
already loaded the code (`deployments.standby`).

`--with-healthcheck` serves its health over HTTP (`deployments.worker_health`). Further options are those of
`prefect worker start`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, ClassVar, Self
from uuid import UUID

import anyio
import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from deployments.capacity import ORDER_RUNS, OWN_RUNS, QUEUES, places, worker_limit
from deployments.environment import set_environment
from deployments.processes import handle_signals, is_alive
from deployments.standby import OrdersJob, Standby, runs_of
from deployments.watched import watched
from deployments.worker_health import WorkerHealth, serving
from flows.consumers import LOOK_SECONDS, Watch
from saga.asyncio_tasks import cancel_and_wait
from saga.lease import lease
from saga.shares import Share
from shop.monitoring.log_lines import configure
from shop.orders.store import ORDERS
from shop.settings import settings

log = logging.getLogger("shop.worker")

GRACE_SECONDS = 15
"""Shutdown grace period for runs, in seconds. A consumer continues with its orders for a third of it."""
_WITH_HEALTH = "--with-healthcheck"
_EXIT_SECONDS = 3
"""How long the process may take to exit when everything has ended, in seconds."""
_LONGEST_PAUSE_SECONDS = 8
"""Limits the pause between checks of waiting orders, in seconds, while the database or the Prefect server
does not answer."""

with warnings.catch_warnings(action="ignore"):  # the warning that it replaces the other worker

    class OrdersWorker(ProcessWorker):
        """Replaces Prefect's own process worker in this process."""

        type = "process"
        job_configuration = OrdersJob
        health: ClassVar[WorkerHealth | None] = None
        """Where the worker of this process records its health; None: no health check uses it."""

        def __init__(self, work_pool_name: str, *, limit: int | None = None, **options: Any) -> None:
            """Selects a limit if there is none (`--limit`)."""
            super().__init__(work_pool_name, limit=limit or worker_limit(), **options)
            self._queues: dict[UUID, str] = {}
            """The queues of the runs that have a place."""
            self._order_runs: Share | None = None
            """This worker's share of `MOST_ORDER_RUNS`."""
            self._background: list[asyncio.Task[None]] = []
            self._standby = Standby(settings().workers.standby)

        async def get_and_submit_flow_runs(self) -> list[FlowRun]:
            """Records when the worker polls, and when the Prefect server answers."""
            if self.health is None:
                return await super().get_and_submit_flow_runs()
            self.health.polls()
            submitted = await super().get_and_submit_flow_runs()
            if self._has_successfully_synced:
                self.health.polled()
            return submitted

        def why_paused(self) -> list[str]:
            """Returns why no work is given to this worker; empty: it is."""
            pool = self._work_pool
            return [f"the work pool {pool.name} is paused"] if pool is not None and pool.is_paused else []

        async def _submit_scheduled_flow_runs(
            self, flow_run_response: list[WorkerFlowRunResponse]
        ) -> list[FlowRun]:
            """Leaves runs that would take places of queues of higher priority until one is free (Late)."""
            return await super()._submit_scheduled_flow_runs(self._with_free_places(flow_run_response))

        def _with_free_places(self, found: list[WorkerFlowRunResponse]) -> list[WorkerFlowRunResponse]:
            running = set(self.limiter.statistics().borrowers)
            # The others have ended or never started.
            self._queues = {run: queue for run, queue in self._queues.items() if run in running}
            fitting = []
            for each in found:
                run = each.flow_run
                # Rescheduled manually while its process lives: Prefect's worker would fail on a second
                # place for it.
                if run.id in running:
                    continue
                queue = run.work_queue_name or ""
                if self._has_place(queue):
                    self._queues[run.id] = queue
                    fitting.append(each)
            return fitting

        def _has_place(self, queue: str) -> bool:
            limit, taken = int(self.limiter.total_tokens), list(self._queues.values())
            if self._order_runs is not None:
                self._order_runs.turns.taken = taken.count(OWN_RUNS)
            if queue == OWN_RUNS and (self._order_runs is None or self._order_runs.turns.is_full):
                return False
            # The places of a queue are those of the queues after it, too.
            return all(
                sum(QUEUES.get(each, 0) >= closed for each in taken) < places(name, limit)
                for name, closed in QUEUES.items()
                if closed <= QUEUES.get(queue, 0)
            )

        async def __aenter__(self) -> Self:
            await super().__aenter__()
            await self._standby.__aenter__()
            self._background = [
                asyncio.create_task(keep_orders_moving(), name="keep-orders-moving"),
                asyncio.create_task(self._share_order_runs(), name="share-order-runs"),
            ]
            if self.health is not None:
                self._background.append(asyncio.create_task(self.health.watch(), name="watch-health"))
                self.health.started(self, poll_seconds=get_current_settings().worker.query_seconds)
            return self

        async def _share_order_runs(self) -> None:
            """Keeps this worker's share of the runs of `process-order`, until it is cancelled. The share ends
            with a lease, so a worker that dies blocks no other."""
            wanted = places(OWN_RUNS, int(self.limiter.total_tokens))
            while True:
                try:
                    async with lease(ORDERS) as lease_id:
                        self._order_runs = Share(ORDER_RUNS, ORDERS, lease_id, wanted)
                        await self._order_runs.take(0)
                        await self._order_runs.keep_fair()
                except Exception as error:  # noqa: BLE001  (the tables may be those of another version)
                    log.warning("no run of process-order starts for now (%s)", type(error).__name__)
                    await asyncio.sleep(_LONGEST_PAUSE_SECONDS)

        async def __aexit__(self, *exc_info: Any) -> None:
            """Terminates the remaining runs gracefully, then stops them. No more runs are accepted."""
            if self.health is not None:
                self.health.stopping()
            with anyio.CancelScope(shield=True):
                await _terminate_runs(GRACE_SECONDS)
                await cancel_and_wait(self._background)
                await self._standby.__aexit__()
            await super().__aexit__(*exc_info)


async def keep_orders_moving() -> None:
    """Starts a consumer whenever orders wait unclaimed. Runs until it is cancelled."""
    watch, pause = Watch(), LOOK_SECONDS
    while True:
        try:
            await watch.look()
            pause = LOOK_SECONDS
        except Exception as error:  # noqa: BLE001  (no answer from the database or the Prefect server, or nothing is deployed)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            log.warning(
                "checking for waiting orders failed (%s); retrying in %.0f s", type(error).__name__, pause
            )
        await asyncio.sleep(pause)


async def _terminate_runs(seconds: float) -> None:
    """Sends SIGTERM to the processes of this worker's runs, and waits until they have ended, for at most
    this many seconds."""
    left = runs_of(psutil.Process())
    for child in left:
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    while any(is_alive(child) for child in left) and time.monotonic() < until:  # noqa: ASYNC110  (Prefect reaps them)
        await asyncio.sleep(0.05)


@contextmanager
def working() -> Iterator[None]:
    """Handles the signals that end the worker, and its monitoring."""
    handle_signals()
    configure()
    with watched("worker", own_port=True):
        try:
            yield
        finally:
            _end_soon(sys.exception())


def _end_soon(error: BaseException | None) -> None:
    """Limits how long the process takes to exit: Prefect waits until its last log lines and events are
    delivered, for minutes if the server does not answer."""
    code = (error.code or 0) if isinstance(error, SystemExit) else int(error is not None)
    leave = threading.Timer(_EXIT_SECONDS, os._exit, [code if isinstance(code, int) else 1])
    leave.daemon = True
    leave.start()


def work(options: Sequence[str]) -> None:
    """Runs the worker until it is stopped. `options`: those of `prefect worker start`."""
    if "query_seconds" not in get_current_settings().worker.model_fields_set:
        set_environment({"PREFECT_WORKER_QUERY_SECONDS": "1"})  # Prefect has read its settings before
    others = [each for each in options if each != _WITH_HEALTH]
    sys.argv = ["prefect", "worker", "start", "--pool", settings().workers.pool, "--type", "process", *others]
    with working(), _serving_health() if len(others) < len(options) else nullcontext():
        importlib.import_module("prefect.cli").app()


@contextmanager
def _serving_health() -> Iterator[None]:
    OrdersWorker.health = WorkerHealth()
    address = get_current_settings().worker.webserver
    with ExitStack() as stack:
        try:
            stack.enter_context(serving(OrdersWorker.health, address.host, address.port))
        except (OSError, OverflowError) as error:
            where = f"{address.host}:{address.port}"
            raise SystemExit(f"the worker cannot serve its health on {where}: {error}") from error
        yield
