"""Decorators that make a Prefect task of a step, or of its compensation.

- `@database_step` / `@database_undo`: `async def f(tx, orders) -> {order id: result or OrderError}`; effect and journal are one commit.
- `@reading_step`: `async def f(orders) -> {order id: result or OrderError}`; changes nothing.
- `@outside_step` / `@outside_undo`: `async def f(order) -> result`, written for one order; raises an `OrderError` to say no.
- The first with `before=`: something outside comes first, as in the second; then one commit for effect and journal.

Whoever writes a step needs neither to think of batches, nor of the journal, nor of retries: the table of steps
(`flows/saga.py`) says how often and how long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import exponential_backoff

from shop.database import is_database_trouble
from shop.errors import OrderError
from shop.monitoring.log_context import about
from shop.points import effect
from shop.turns import in_turns
from shop.under_way import OrderUnderWay
from shop.work import OUTSIDE, DatabaseAction, OutsideAction, ReadingAction, Work, recording, run_in_database, run_outside, run_reading
from tasks.limits import slots

StepTask = Task[[Work], Any]


Before = Callable[[Sequence[OrderUnderWay]], OutsideAction | None]
"""What has to be done outside, for each of these orders, before the transaction; None: nothing."""


def database_step(
    *, after: Callable[[OrderUnderWay], None] | None = None, before: Before | None = None
) -> Callable[[DatabaseAction], StepTask]:
    """A set-based step in our own database. `after` is called for each order once the commit is certain; a short one.

    `before`: chooses something outside that comes first. From then on the step's compensation is due until the step is done.
    """

    def decorate(action: DatabaseAction) -> StepTask:
        async def run_step(work: Work) -> dict[str, Any]:
            try:
                await _run_in_database(work, action, before)
            finally:
                await _each(after, work.done)
            return work.summary()

        return _task(run_step, action, outside=before is not None, inside=True)

    return decorate


async def _run_in_database(work: Work, action: DatabaseAction, before: Before | None) -> None:
    if before is not None and (first := before(work.orders)) is not None:
        await run_outside(work, first, then=action)
    else:
        await run_in_database(work, action)


async def _each(after: Callable[[OrderUnderWay], None] | None, orders: Sequence[OrderUnderWay]) -> None:
    """In the event loop, in turns: a thread would make the loop wait for the interpreter's lock at every step."""
    if after is not None:
        async for order in in_turns(orders):
            after(order)


def database_undo(*, before: Before | None = None) -> Callable[[DatabaseAction], StepTask]:
    """The compensation of a step in our own database. `before`: chooses what takes back first what is outside."""

    def decorate(action: DatabaseAction) -> StepTask:
        async def run_undo(work: Work) -> dict[str, Any]:
            await _run_in_database(work, action, before)
            return work.summary()

        return _task(run_undo, action, outside=before is not None, inside=True)

    return decorate


def reading_step() -> Callable[[ReadingAction], StepTask]:
    """A set-based step that changes nothing, and opens transactions of its own where it needs them."""

    def decorate(action: ReadingAction) -> StepTask:
        async def run_step(work: Work) -> dict[str, Any]:
            await run_reading(work, action)
            return work.summary()

        return _task(run_step, action, inside=True)

    return decorate


def outside_step(*, limit: str | None = None) -> Callable[[OutsideAction], StepTask]:
    """A step that asks or changes something outside; lifted from one order to many by running them side by side.

    `limit`: a Prefect global concurrency limit, taken once for a batch.
    """
    return lambda action: _outside(action, limit)


def outside_undo(*, limit: str | None = None) -> Callable[[OutsideAction], StepTask]:
    """The compensation of a step that changes something outside."""
    return lambda action: _outside(action, limit)


async def run(work: Work) -> None:
    """Runs a step, or its compensation, as a Prefect task run. Raises what `shop.work` raises, after the retries."""
    step = work.step
    chosen: Any = step.undo if work.undo else step.task
    with about(work.key, work.orders):
        await _with_retries(chosen, step.undo_retries if work.undo else step.retries)(work)


def _outside(action: OutsideAction, limit: str | None) -> StepTask:
    async def run_step(work: Work) -> dict[str, Any]:
        async with slots(limit, occupy=len(work.orders)):
            await run_outside(work, action)
        return work.summary()

    return _task(run_step, action, outside=True)


def _task(run_step: Any, action: Any, *, outside: bool = False, inside: bool = False) -> StepTask:
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(run_step, attribute, getattr(action, attribute))
    for part in (*(OUTSIDE if outside else ()), *(("",) if inside else ())):
        effect(recording(action, part))  # declared, so that the tests of crashes miss none
    # The journal decides what is done, never Prefect's results: a cached "reserved" would skip reserving after a release. And no tags: for
    # each one Prefect asks its server whether there is a limit, and a task waits for as long as the server is away.
    made: StepTask = task(
        name=action.__name__,
        task_run_name=_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=_worth_retrying,
    )(run_step)
    return made


_prepared: dict[tuple[int, int], StepTask] = {}


def _with_retries(made: StepTask, retries: int) -> StepTask:
    """The task with its retries: exponential pauses from half a second, with jitter."""
    key = (id(made), retries)
    if key not in _prepared:
        pauses = exponential_backoff(backoff_factor=0.5)(retries) if retries else 0
        _prepared[key] = made.with_options(retries=retries, retry_delay_seconds=pauses, retry_jitter_factor=0.5)
    return _prepared[key]


def _run_name() -> str:
    return f"{task_run.task_name} {task_run.parameters['work'].title}"[:200]


async def _worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Only what may pass by itself, and soon: an error that says so, or a database in trouble. A "no" stays a no."""
    error: object = await state.aresult(raise_on_failure=False)
    if isinstance(error, OrderError):
        return error.retryable and error.retry_after is None
    return isinstance(error, BaseException) and is_database_trouble(error)
