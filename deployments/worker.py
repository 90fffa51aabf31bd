"""`python -m deployments.worker`: Prefect's process worker for the pool `orders`, one that stops well.

Told to stop (SIGTERM, Ctrl-C), Prefect's own kills its runs outright, and their orders wait until the lease runs out. This one tells the
runs first: each finishes the step in hand or hands its orders back, and whoever else is there goes on with them at once.

Further options are those of `prefect worker start`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import psutil
from prefect.workers.process import ProcessWorker

from deployments.stack.worker import POOL
from deployments.watched import watched
from shop.logs import configure

GRACE_SECONDS = 15
"""For so long the runs that were told to go are waited for. A drain goes on with what it has in hand for a third of it."""
_ITS_RUN = "PREFECT__FLOW_RUN_ID"

with warnings.catch_warnings(action="ignore"):  # that it takes the other one's place

    class OrdersWorker(ProcessWorker):
        """Takes the place of Prefect's own process worker in this process."""

        type = "process"

        async def __aexit__(self, *exc_info: Any) -> None:
            """No more runs are taken by now. Those that are left are told to go, and then stopped."""
            with anyio.CancelScope(shield=True):
                await _let_runs_go(GRACE_SECONDS)
            await super().__aexit__(*exc_info)


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
    """Around the worker's life: how it is watched."""
    configure()
    with watched("worker", own_port=True):
        yield


def main() -> None:
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "1")
    sys.argv = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", *sys.argv[1:]]
    with working():
        importlib.import_module("prefect.cli").app()


if __name__ == "__main__":
    main()
