"""Flows and tasks as plain functions: for tests of the shop, which prove the same and need no Prefect server.

Replaced is Prefect alone: runs of flows and tasks (by calls, with the same parameters, states and retries),
its client (as of a server that cannot be reached), artifacts, events and concurrency limits. Everything of
this project is the real code.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
import prefect.runtime.flow_run
import prefect.runtime.task_run
from prefect import Flow, Task
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed
from prefect.utilities.callables import get_call_parameters

import flows.jobs

_PACKAGES = ("flows.", "tasks.", "saga.prefect.")
_run: ContextVar[Mapping[str, Any]] = ContextVar(
    "run", default=MappingProxyType({"id": None, "name": None, "parameters": {}})
)
_task: ContextVar[Mapping[str, Any]] = ContextVar(
    "task", default=MappingProxyType({"task_name": None, "parameters": {}})
)


async def _called(flow: Flow[..., Any], parameters: dict[str, Any], *, return_state: bool) -> Any:
    token = _run.set({"id": str(uuid.uuid4()), "name": flow.name, "parameters": parameters})
    try:
        if flow.should_validate_parameters:
            parameters = flow.validate_parameters(parameters)
        result = flow.fn(**parameters)
        result = await result if inspect.isawaitable(result) else result
    except Exception as error:
        if not return_state:
            raise
        return Failed(data=error, message=f"Flow run encountered an exception: {error}")
    finally:
        _run.reset(token)
    if return_state:
        return result if isinstance(result, State) else Completed(data=result)
    return await result.aresult() if isinstance(result, State) else result


def _run_flow(
    flow: Flow[..., Any], *args: Any, return_state: bool = False, wait_for: object = None, **kwargs: Any
) -> Any:
    called = _called(flow, get_call_parameters(flow.fn, args, kwargs), return_state=return_state)
    return called if inspect.iscoroutinefunction(flow.fn) else asyncio.run(called)


async def _tried(task: Task[..., Any], parameters: dict[str, Any]) -> Any:
    pauses = task.retry_delay_seconds
    for attempt in range(task.retries + 1):
        token = _task.set({"task_name": task.name, "parameters": parameters})
        try:
            result = task.fn(**parameters)
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            state: State[Any] = Failed(data=error)
            if attempt == task.retries or (
                task.retry_condition_fn and not await task.retry_condition_fn(task, None, state)  # type: ignore[misc, arg-type]
            ):
                raise
            pause = pauses[min(attempt, len(pauses) - 1)] if isinstance(pauses, list) else float(pauses or 0)
            await asyncio.sleep(pause * (1 + random.random() * (task.retry_jitter_factor or 0)))
        finally:
            _task.reset(token)
    return None


def _run_task(
    task: Task[..., Any], *args: Any, return_state: bool = False, wait_for: object = None, **kwargs: Any
) -> Any:
    parameters = get_call_parameters(task.fn, args, kwargs)
    tried = _tried(task, parameters)
    return tried if inspect.iscoroutinefunction(task.fn) else asyncio.run(tried)


def _unreachable(*_: Any, **__: Any) -> Any:
    raise httpx.ConnectError("this test has no Prefect server")


async def _made(*_: Any, **__: Any) -> uuid.UUID:
    return uuid.uuid4()


_REPLACED: dict[str, Any] = {
    "get_client": _unreachable,
    "Artifact": SimpleNamespace(aget=_unreachable, get=_unreachable),
    "get_events_client": _unreachable,
    "emit_event": lambda *_, **__: None,
    "get_run_logger": lambda *_, **__: logging.getLogger("prefect.flow_runs"),
    "acreate_markdown_artifact": _made,
    "acreate_table_artifact": _made,
    "acreate_progress_artifact": _made,
    "aupdate_progress_artifact": _made,
}
_SERVERS_JOBS = {"evaluate_alerts", "refresh_dashboard"}
"""Periodic jobs whose results are on a Prefect server only."""


@contextmanager
def without_prefect() -> Iterator[None]:
    """While it lasts, flows and tasks run as plain functions, in this process."""
    fields = {name: (lambda name=name: _run.get()[name]) for name in ("id", "name", "parameters")}
    task_fields = {name: (lambda name=name: _task.get()[name]) for name in ("task_name", "parameters")}
    with ExitStack() as stack:
        enter = stack.enter_context
        # or Prefect would start a server of its own
        enter(temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}))
        enter(patch.object(Flow, "__call__", _run_flow))
        enter(patch.object(Task, "__call__", _run_task))
        enter(patch.dict(prefect.runtime.flow_run.FIELDS, fields))
        enter(patch.dict(prefect.runtime.task_run.FIELDS, task_fields))
        jobs = tuple(job for job in flows.jobs.JOBS if job.name not in _SERVERS_JOBS)
        enter(patch.object(flows.jobs, "JOBS", jobs))
        for name, module in list(sys.modules.items()):
            if name.startswith(_PACKAGES):
                for attribute, replacement in _REPLACED.items():
                    if attribute in vars(module):
                        enter(patch.object(module, attribute, replacement))
        yield
