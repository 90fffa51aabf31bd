"""Runs the saga of one instance from where its journal ends: a new instance, or one that another worker left
behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from prefect.logging import get_logger

from saga import journal
from saga.claims import leave_to_other_version
from saga.configuration import config
from saga.database import is_database_error, transaction
from saga.definition import Saga, Step
from saga.errors import (
    InfrastructureError,
    LeaseLost,
    SagaCancelled,
    SagaReturned,
    StepError,
    TooManyTakeovers,
)
from saga.finish import finish, pause_if_worker_dies, postpone
from saga.instance import Instance
from saga.loop import execution_of, run_steps
from saga.prefect.compensation import compensate
from saga.prefect.postpone import is_postponement, postpone_failed
from saga.prefect.steps import run_step

log = get_logger("saga")
_LONGEST_RETRY_SECONDS = 300
"""Limits the pause, in seconds, before the next try of a step past the pivot that failed. It doubles with
each claim."""
_LONGEST_PAUSE_SECONDS = 6 * 3600
"""Limits the pause, in seconds, of an instance past the pivot whose workers die repeatedly."""


class Cancellation(Protocol):
    """Decides what the cancellation of a run means for its instance."""

    async def withdraw(self, instance_id: str | None) -> list[str] | None:
        """Commits that the instance is to be cancelled, and returns the ids of newly cancelled ones; None if
        the run's process only has to end."""


async def run_saga(saga: Saga, instance: Instance, cancellation: Cancellation | None = None) -> None:
    """Runs the steps that the journal does not have as done; if one fails before the pivot, compensates what
    was begun, in reverse order.

    Raises `LeaseLost` if another worker has the instance, and database errors: then nothing is decided, and
    the instance is recovered. An instance that is blocked by an external system is postponed: then, too,
    nothing is decided about it.

    `cancellation`: for a run of this instance alone. None: a cancelled run says only that its worker has to
    end. Whatever else stops the run (it is suspended, its process has to end) decides nothing: the instance
    is released with the lease. An instance with a step that the saga does not know is left to another worker.
    """
    if not instance.journal.keys() <= saga.names:
        await leave_to_other_version([instance], saga.names)
        return
    step = saga.steps[0]

    async def run(next_step: Step, todo: list[Instance], _others: list[Instance]) -> Sequence[Instance]:
        nonlocal step
        step = next_step
        return await _run_alone(saga, step, todo)

    try:
        _check_resumable(saga, instance)
        await _limit_deaths(saga, instance)
        await run_steps(saga, [instance], run)
    except BaseException as error:
        failure = await _failure(error, step, instance, cancellation)
        if is_postponement(failure):
            await postpone_failed({instance: failure})
            return
        if instance.done(saga.pivot) and instance.failure is None:
            await _continue_past_pivot(saga, instance, error)
        else:
            instance.fail(step.name, failure)
            await compensate(saga, [instance])
        if not isinstance(error, Exception):
            raise
    else:
        await finish([instance], saga)


async def reload(instance: Instance) -> None:
    """Reads the instance's journal again; marks the instance as lost if another worker has it."""
    async with transaction() as tx:
        if await journal.verify_ownership(tx, [instance]):
            await journal.load(tx, [instance])


def _check_resumable(saga: Saga, instance: Instance) -> None:
    """Raises why the instance is compensated instead of continued: another worker had begun to compensate it,
    it is to be cancelled (or to be returned, past the pivot), or too many workers died with it."""
    if instance.failure is not None:
        raise instance.failure
    past_pivot = instance.done(saga.pivot)
    if instance.cancel_reason is not None:
        failure = (
            SagaReturned(instance.cancel_reason) if past_pivot else SagaCancelled(instance.cancel_reason)
        )
        instance.fail(f"cancel_{instance.store.noun}", failure)
        raise failure
    if instance.lone_deaths > config().max_takeovers and not past_pivot:
        raise TooManyTakeovers(instance.lone_deaths)


async def _limit_deaths(saga: Saga, instance: Instance) -> None:
    """Past the pivot, an instance that kills its workers is never compensated for that: it is retried, with
    growing pauses."""
    excess = instance.lone_deaths - config().max_takeovers
    if excess <= 0:
        return
    seconds = min(_LONGEST_PAUSE_SECONDS, 60 * 2 ** min(excess, 30))
    why = str(TooManyTakeovers(instance.lone_deaths))
    log.error(
        "instance %s is past %s, and %s: if that happens again, it is retried after %.0f s",
        instance.id,
        saga.pivot,
        why,
        seconds,
    )
    await pause_if_worker_dies(instance, seconds)


async def _failure(
    error: BaseException, step: Step, instance: Instance, cancellation: Cancellation | None
) -> StepError:
    """Returns what the error means for the instance. Raises if it means nothing: the run stops, another
    worker has the instance, or the database is unavailable."""
    if await _only_stops_the_run(error, instance, cancellation):
        raise error
    await reload(instance)  # what is committed counts, whatever the error says
    if instance.lost and isinstance(error, Exception):
        raise LeaseLost(instance.id) from error
    if instance.lost or is_database_error(error):
        raise error
    if isinstance(error, StepError):
        return error
    # An exception of a step is a `StepError` by now (`saga.execution`), so this one is of Prefect's engine,
    # or of its machine.
    return InfrastructureError(step.name, error) if isinstance(error, Exception) else SagaCancelled()


async def _only_stops_the_run(
    error: BaseException, instance: Instance, cancellation: Cancellation | None
) -> bool:
    if isinstance(error, asyncio.CancelledError):
        return cancellation is None or await cancellation.withdraw(instance.id) is None
    return not isinstance(error, Exception)


async def _continue_past_pivot(saga: Saga, instance: Instance, error: BaseException) -> None:
    """Postpones the instance after a failed step, to retry it. A cancelled run runs the remaining steps."""
    if isinstance(error, Exception):
        log.error("instance %s is past %s, and %s: it is retried", instance.id, saga.pivot, error)
        await postpone([instance], seconds=min(_LONGEST_RETRY_SECONDS, 5 * 2 ** min(instance.fence - 1, 10)))
        return

    async def run(step: Step, todo: list[Instance], _others: list[Instance]) -> Sequence[Instance]:
        return await _run_alone(saga, step, todo)

    await finish(await run_steps(saga, [instance], run), saga)


async def _run_alone(saga: Saga, step: Step, todo: list[Instance]) -> Sequence[Instance]:
    await run_step(execution_of(saga, step, todo))
    return ()
