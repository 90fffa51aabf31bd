"""Standby processes: a run starts in a process that has already loaded the code.

Loading Prefect and the flows takes a new process seconds. Prefect's process worker starts two of them, one
after the other: the first prepares a folder for the code. A run whose code is this project's needs neither.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import anyio
import anyio.abc
import psutil
from prefect.settings import get_current_settings
from prefect.utilities.processutils import run_process
from prefect.workers.process import ProcessJobConfiguration

from deployments.standby_run import NO_RUN, RUN_ID_VARIABLE
from saga.asyncio_tasks import cancel_and_wait
from shop.runtime.home import HOME

_REFILL_SECONDS = 2
"""The pause, in seconds, before another process loads the code: the run that has just begun has priority."""
_MARK = "ORDER_SAGA_STANDBY"
"""The environment variable that marks a run whose code is this project's."""
_starter: Any = importlib.import_module("prefect.runner._starter_engine")
"""The module that starts processes, with its `run_process`, which its documentation says to replace."""
_FLOWS = "flows."
"""What the entrypoints of this project's deployments begin with: modules, not files."""
_SET_FOLDER = "prefect.deployments.steps.set_working_directory"


class OrdersJob(ProcessJobConfiguration):
    """The process of a run. If the run's code is in this project's folder, Prefect starts it directly."""

    def prepare_for_flow_run(self, flow_run: Any, deployment: Any = None, *more: Any, **others: Any) -> None:
        super().prepare_for_flow_run(flow_run, deployment, *more, **others)
        if not self._command_configured and _is_here(deployment):
            self._command_configured = True
            self.env[_MARK] = "1"


def _is_here(deployment: Any) -> bool:
    """Returns whether the deployment's code is this project's: all it pulls is this folder; where the package
    is installed, nothing."""
    steps = getattr(deployment, "pull_steps", None) or []
    if not steps:
        return (getattr(deployment, "entrypoint", None) or "").startswith(_FLOWS)
    folders = [step[_SET_FOLDER].get("directory") for step in steps if list(step) == [_SET_FOLDER]]
    return len(folders) == len(steps) == 1 and folders[0] and Path(folders[0]).resolve() == HOME


class Standby:
    """Keeps processes that wait for a run. While it is entered, Prefect's worker starts runs in them.

    A run that finds none waiting starts in a new one. Each process serves one run and ends with it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: deque[anyio.abc.Process] = deque()
        self._refilling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        _starter.run_process = self._run_process
        self._refill(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        _starter.run_process = run_process
        if self._refilling is not None:
            await cancel_and_wait([self._refilling])
        while self._waiting:
            process = self._waiting.popleft()
            with suppress(ProcessLookupError):
                process.kill()
            await process.aclose()

    async def _run_process(self, command: list[str], **options: Any) -> anyio.abc.Process:
        """Replaces Prefect's `run_process` for runs."""
        env: Mapping[str, str] | None = options.get("env")
        if not (env and _MARK in env and options.get("stream_output") is True):
            return await run_process(command, **options)
        async with await self._take(env, options.get("cwd")) as process:
            options["task_status"].started(options["task_status_handler"](process))
            await process.wait()
        return process

    async def _take(self, env: Mapping[str, str], cwd: Any) -> anyio.abc.Process:
        """Returns a process that has its run."""
        run = json.dumps({"env": dict(env), "cwd": str(cwd or HOME)}).encode()
        while True:
            process = self._waiting.popleft() if self._waiting else await _start()
            self._refill(_REFILL_SECONDS)
            assert process.stdin is not None
            with suppress(anyio.BrokenResourceError):  # it was killed meanwhile
                await process.stdin.send(run)
                await process.stdin.aclose()
                return process
            await process.aclose()

    def _refill(self, seconds: float) -> None:
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.create_task(self._fill(seconds), name="fill-standby")

    async def _fill(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while len(self._waiting) < self._number:
            self._waiting.append(await _start())


async def _start() -> anyio.abc.Process:
    """Starts a process that loads the code and waits. It is in a session of its own, so that Ctrl-C ends the
    worker, which ends its runs gracefully."""
    return await anyio.open_process(
        [sys.executable, "-m", "deployments.standby_run"],
        stdin=subprocess.PIPE,
        stdout=None,
        stderr=None,
        cwd=HOME,
        env={
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            RUN_ID_VARIABLE: str(NO_RUN),
        },
        start_new_session=True,
    )


def runs_of(process: psutil.Process) -> list[psutil.Process]:
    """Returns the child processes that run a flow."""
    return [child for child in process.children() if _run_of(child) not in {None, NO_RUN}]


def _run_of(process: psutil.Process) -> UUID | None:
    try:
        return UUID(process.environ()[RUN_ID_VARIABLE])
    except (psutil.Error, KeyError, ValueError):
        return None
