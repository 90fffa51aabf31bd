"""Decorators that make a Prefect task of a step, or of its compensation.

- `@database_step` / `@database_compensation`: `async def f(tx, instances) -> {id: result or StepError}`;
  effect and journal are one commit.
- `@reading_step`: `async def f(instances) -> {id: result or StepError}`; changes nothing.
- `@external_step` / `@external_compensation`: `async def f(instance) -> result`, written for one instance;
  raises a `StepError` to fail.
- `@database_step(before=...)`: an external action runs first, as in an external step; then effect and journal
  are one commit.

The author of a step does not handle batches, the journal or retries: the table of steps says how often and
how long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import exponential_backoff

from saga.database import is_database_error
from saga.database_action import run_in_database, run_reading
from saga.errors import StepError
from saga.execution import (
    EXTERNAL_PARTS,
    DatabaseAction,
    ExternalAction,
    ReadingAction,
    StepExecution,
    record_name,
)
from saga.external_action import KnownResult, run_external
from saga.failpoints import failpoint
from saga.instance import Instance
from saga.limit import Limit
from saga.log_context import about
from saga.shares import share

StepTask = Task[[StepExecution], Any]


Before = Callable[[Sequence[Instance]], ExternalAction | None]
"""Returns the external action that runs for each of these instances before the transaction; None: none."""


def database_step(
    *, after: Callable[[Sequence[Instance]], None] | None = None, before: Before | None = None
) -> Callable[[DatabaseAction], StepTask]:
    """Makes a task of a set-based step in the same database. `after` is called after the commit, with the
    instances that are done, if there are any; it must be fast.

    `before`: returns an external action that runs first. From then on the step's compensation is due until
    the step is done.
    """

    def decorate(action: DatabaseAction) -> StepTask:
        async def body(execution: StepExecution) -> None:
            try:
                await _run_in_database(execution, action, before)
            finally:
                if after is not None and execution.done:
                    after(execution.done)

        return _task(body, action, external=before is not None, in_database=True)

    return decorate


async def _run_in_database(execution: StepExecution, action: DatabaseAction, before: Before | None) -> None:
    if before is not None and (first := before(execution.instances)) is not None:
        await run_external(execution, first, then=action)
    else:
        await run_in_database(execution, action)


def database_compensation(*, before: Before | None = None) -> Callable[[DatabaseAction], StepTask]:
    """Makes a task of the compensation of a step in the same database. `before`: returns the external
    compensation, which runs first."""

    def decorate(action: DatabaseAction) -> StepTask:
        async def body(execution: StepExecution) -> None:
            await _run_in_database(execution, action, before)

        return _task(body, action, external=before is not None, in_database=True)

    return decorate


def reading_step() -> Callable[[ReadingAction], StepTask]:
    """Makes a task of a set-based step that changes nothing. It opens its own transactions where it needs
    them."""

    def decorate(action: ReadingAction) -> StepTask:
        async def body(execution: StepExecution) -> None:
            await run_reading(execution, action)

        return _task(body, action, in_database=True)

    return decorate


def external_step(
    *, limit: Limit | None = None, known: KnownResult | None = None
) -> Callable[[ExternalAction], StepTask]:
    """Makes a task of a step that calls an external system. It is written for one instance, and runs
    concurrently for many.

    `limit`: limits the concurrent calls of all workers together; a batch takes its share once. `known`: for a
    step that changes nothing, returns the result for an instance that needs no call.
    """
    return lambda action: _external_task(action, limit, known)


def external_compensation(*, limit: Limit | None = None) -> Callable[[ExternalAction], StepTask]:
    """Makes a task of the compensation of a step that calls an external system."""
    return lambda action: _external_task(action, limit)


async def run_step(execution: StepExecution) -> None:
    """Runs a step, or its compensation, as a Prefect task run. Raises what `saga.execution` raises, after the
    retries."""
    step = execution.step
    chosen: Any = step.undo if execution.undo else step.task
    with about(execution.key, execution.instances):
        await _with_retries(chosen, step.undo_retries if execution.undo else step.retries)(execution)


def _external_task(action: ExternalAction, limit: Limit | None, known: KnownResult | None = None) -> StepTask:
    async def body(execution: StepExecution) -> None:
        one, calls = execution.instances[0], len(execution.instances)
        async with share(limit, one.store, one.lease, wanted=calls):
            await run_external(execution, action, known=known)

    made = _task(body, action, external=True)
    made.is_external, made.limit = True, limit  # type: ignore[attr-defined]
    return made


def _task(body: Any, action: Any, *, external: bool = False, in_database: bool = False) -> StepTask:
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(body, attribute, getattr(action, attribute))
    for part in (*(EXTERNAL_PARTS if external else ()), *(("",) if in_database else ())):
        # Declares the failpoints, so that the crash tests cover all of them.
        failpoint(record_name(action, part))
    # The journal decides what is done, never Prefect's results: a cached "reserved" would skip reserving
    # after a release. There are no tags: for each tag Prefect asks its server for a limit, and the task waits
    # while the server is unavailable.
    made: StepTask = task(
        name=action.__name__,
        task_run_name=_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=worth_retrying,
    )(body)
    return made


_with_retries_cache: dict[tuple[StepTask, int], StepTask] = {}


def _with_retries(made: StepTask, retries: int) -> StepTask:
    """Returns the task with its retries: exponential pauses from half a second, with jitter."""
    key = (made, retries)
    if key not in _with_retries_cache:
        pauses = exponential_backoff(backoff_factor=0.5)(retries) if retries else 0
        _with_retries_cache[key] = made.with_options(
            retries=retries, retry_delay_seconds=pauses, retry_jitter_factor=0.5
        )
    return _with_retries_cache[key]


def _run_name() -> str:
    return f"{task_run.task_name} {task_run.parameters['execution'].title}"[:200]


async def worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Returns whether Prefect retries a task run: after transient errors and database errors, not after
    refusals and postponements."""
    error: object = await state.aresult(raise_on_failure=False)
    if isinstance(error, StepError):
        return error.retryable and error.retry_after is None
    return isinstance(error, BaseException) and is_database_error(error)
