"""Compensates in the reverse of the sequence in which the steps were begun;
each compensation is a task run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby

from prefect.logging import get_logger

from saga.configuration import config
from saga.definition import Saga, Step
from saga.errors import BatchFailing, LeaseLost, StepError
from saga.execution import StepExecution
from saga.finish import begun_elsewhere, finish, give_up_compensating, record_failures
from saga.instance import Instance, SagaInstance
from saga.prefect.postpone import is_postponement, postpone_failed
from saga.prefect.steps import run_step

log = get_logger("saga")
DETACHED_AT_ONCE = 32
"""Limits how many detached instances run concurrently."""


async def compensate(saga: Saga, instances: Sequence[Instance]) -> None:
    """Takes failed instances to their outcome. Instances with the same compensations share the task runs.

    A compensation that fails, after its retries, stays due: the others still run, and the instance ends in
    `needs_attention`.
    """
    if due := [
        instance
        for instance in instances
        if instance.undo_plan() or instance.done(saga.pivot) or begun_elsewhere(instance)
    ]:
        await record_failures(due, pivot=saga.pivot)
    most_deaths = 2 * (config().max_takeovers + 1)
    if deadly := [
        instance for instance in due if instance.undo_plan() and instance.lone_deaths >= most_deaths
    ]:
        log.error(
            "compensating %s kills the workers: it needs manual review",
            ", ".join(instance.id for instance in deadly),
        )
        await give_up_compensating(deadly)
        due = [instance for instance in due if instance not in deadly]
    due.sort(key=SagaInstance.undo_plan)
    for plan, same in groupby(due, key=SagaInstance.undo_plan):
        group = list(same)
        for name in plan:
            # Postponed ones continue from here later.
            group = [instance for instance in group if not instance.lost]
            if group:
                await compensate_step(saga[name], group)
    saga.compensated(instances, await finish(instances, saga))


async def compensate_step(step: Step, instances: Sequence[Instance]) -> None:
    """Runs one step's compensation for the instances. Raises only database errors."""
    execution = StepExecution(step, instances, undo=True, straggler_timeout=config().straggler_seconds)
    try:
        await run_step(execution)
    except BatchFailing as failing:
        log.warning("%s; they are compensated one by one", failing)
    except LeaseLost as lost:  # one of them; the others continue
        log.warning("instance %s has been taken over by another worker", lost)
    except StepError as failure:
        if is_postponement(failure):
            await postpone_failed(dict.fromkeys(instances, failure))
            return
        log.warning("%s of %s failed: %s", step.undo_name, execution.title, failure)
    await postpone_failed(execution.postponed)
    slots = asyncio.Semaphore(DETACHED_AT_ONCE)

    async def alone(instance: Instance) -> None:
        async with slots:
            await compensate_step(step, [instance])

    await asyncio.gather(*(alone(instance) for instance in execution.detached))
