"""Runs a step's database action: its effect and the journal rows are one commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from saga import journal
from saga.database import TRANSACTION_SECONDS, Tx, is_database_error, transaction
from saga.errors import DatabaseTimeout, StepError
from saga.execution import DatabaseAction, ReadingAction, Result, StepExecution, as_step_error, record_failure
from saga.instance import Instance

_READING_BATCH = 50
"""Limits how many instances a reading step gets per call."""


async def run_in_database(execution: StepExecution, action: DatabaseAction) -> None:
    """Runs a database action: effect and journal in one transaction. Raises only what concerns all instances,
    or a single one's failure."""

    async def act(todo: list[Instance]) -> dict[Instance, Result | StepError]:
        # The transaction's limit is longer, so that the step's own limit expires first and names the step.
        async with transaction(
            execution.recorded(), seconds=execution.step.time_limit + TRANSACTION_SECONDS
        ) as tx:
            return await _act_in_transaction(execution, action, tx, todo)

    await _run_action(execution, act, seconds=execution.step.time_limit)


async def run_reading(execution: StepExecution, action: ReadingAction) -> None:
    """Runs a step that changes nothing. It opens its own transactions, so that none is open while it
    calculates. Raises as `run_in_database`.

    It gets a few instances at a time, each call with the step's time limit: calculating takes time and memory
    in proportion to their number.
    """

    async def act(todo: list[Instance]) -> dict[Instance, Result | StepError]:
        ends: dict[Instance, Result | StepError] = {}
        for place in range(0, len(todo), _READING_BATCH):
            some, began = todo[place : place + _READING_BATCH], time.monotonic()
            async with asyncio.timeout(execution.step.time_limit):
                with execution.recorded():
                    by_id = await action(some)
            read = {instance: by_id[instance.id] for instance in some}
            journal.defer(execution.records(read, begun=False, began=began))
            ends |= read
        return ends

    await _run_action(execution, act, seconds=None)


async def _run_action(
    execution: StepExecution,
    act: Callable[[list[Instance]], Awaitable[dict[Instance, Result | StepError]]],
    *,
    seconds: float | None,
) -> None:
    if not (todo := await execution.start()):
        return
    try:
        async with asyncio.timeout(seconds):
            ends = await act(todo)
    except TimeoutError as error:
        raise DatabaseTimeout(execution.step.name, execution.step.time_limit) from error
    except Exception as error:
        if is_database_error(error):
            raise
        # One instance failed the statement for all: each continues alone, and the cause fails alone.
        if len(execution.instances) > 1:
            execution.detached += todo
            return
        failure = as_step_error(execution, todo[0], error)
        await record_failure(execution, todo[0], failure)
        ends = {todo[0]: failure}
    execution.settle(ends)


async def _act_in_transaction(
    execution: StepExecution, action: DatabaseAction, tx: Tx, todo: list[Instance]
) -> dict[Instance, Result | StepError]:
    if execution.changes_nothing:
        began = time.monotonic()
        by_id = await action(tx, todo)
        ends = {instance: by_id[instance.id] for instance in todo}
        journal.defer(execution.records(ends, begun=False, began=began))
        return ends
    held = await journal.verify_ownership(tx, todo)
    if not held:
        return {}
    if execution.undo:
        await execution.begin(tx, held)
    by_id = await action(tx, held)
    ends = {instance: by_id[instance.id] for instance in held}
    await execution.record(tx, ends, begun=execution.undo)
    return ends
