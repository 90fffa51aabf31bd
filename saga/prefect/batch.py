"""The batch runner: runs many instances concurrently in one flow run, in batches and detached from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import UUID

from prefect.logging import get_logger
from sqlalchemy import text

from saga import journal
from saga.asyncio_tasks import cancel_and_wait
from saga.claims import LONGEST_ASIDE_SECONDS
from saga.configuration import config
from saga.database import is_unreachable, retry_while_database_down, transaction
from saga.definition import Saga, Step
from saga.errors import BatchFailing, LeaseLost, StepError
from saga.execution import StepExecution
from saga.finish import finish, postpone
from saga.infrastructure import is_infrastructure_error
from saga.instance import Instance
from saga.lease import lease
from saga.log_context import bind_instance
from saga.loop import execution_of, run_steps
from saga.prefect.compensation import DETACHED_AT_ONCE, compensate
from saga.prefect.postpone import is_postponement, postpone_failed
from saga.prefect.run import reload, run_saga
from saga.prefect.steps import run_step
from saga.prefect.termination import cancelled_by_sigterm
from saga.shares import share
from saga.store import SagaStore

log = get_logger("saga")
GRACE_SECONDS = 5
"""Shutdown grace period in seconds: instances that are not finished by then are released to other workers."""
_PING = text("SELECT 1")
_LONGEST_INFRASTRUCTURE_PAUSE_SECONDS = 60
"""Limits the pause, in seconds, of a single instance that keeps meeting infrastructure errors."""
_SMALL_GROUP = 100
"""The smallest number of instances that are released together while the database is unreachable or slow."""


class BatchRunner:
    """Runs batches and detached instances. Failures of one instance or batch do not affect others."""

    def __init__(self, saga: Saga) -> None:
        self._saga = saga
        self.batches: set[asyncio.Task[None]] = set()
        self.detached: set[asyncio.Task[None]] = set()
        """The tasks of instances that left their batch: failed ones that are compensated, and slow ones that
        continue."""
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()
        """Both are set whenever a task has ended; each has its own waiter."""
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        """The task that each instance was last assigned to. A detached instance no longer belongs to its
        batch's task."""
        self._detached_slots = asyncio.Semaphore(DETACHED_AT_ONCE)
        self.unreleased = False
        """Whether instances could not be released: no task works on them, and no other worker can claim them.
        """
        self._stopped: BaseException | None = None
        """The exception that stopped a task and concerns the whole run, for example because the run is
        suspended."""
        self._started_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether no task is running."""
        return not self.batches and not self.detached

    @property
    def instances(self) -> Iterator[Instance]:
        """All instances that this runner may be working on."""
        return iter(self._tasks)

    def idle_for(self, seconds: float) -> bool:
        """Returns whether no task is running and no batch was started for this time."""
        return self.idle and time.monotonic() - self._started_at > seconds

    def start(self, instances: Sequence[Instance]) -> asyncio.Task[None]:
        """Starts a batch, which takes its instances to their outcomes. Returns its task."""
        self._started_at = time.monotonic()
        return self._start_task(self.batches, self._batch(instances), instances)

    def check(self) -> None:
        """Raises what stopped the run, if anything did. The instances of stopped tasks are released with the
        lease."""
        if self._stopped is not None:
            raise self._stopped

    async def finish_up(self, seconds: float | None = None) -> None:
        """Waits until no task is running, up to this time, and cancels the remaining tasks. Their instances
        are released with the lease."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.idle:
                    await asyncio.wait(self.batches | self.detached)
        await cancel_and_wait(self.batches | self.detached)

    async def _batch(self, instances: Sequence[Instance]) -> None:
        """Runs the saga for many instances that share each task run. Failed and slow instances leave the
        batch; the rest continue."""
        together = [instance for instance in instances if self._stays_in_batch(instance)]
        others = set(instances) - set(together)
        self._detach(list(others))
        if ended := await run_steps(self._saga, together, self._run_step):
            await finish(ended, self._saga)

    def _stays_in_batch(self, instance: Instance) -> bool:
        """Returns whether the instance can run in a batch: it has no failure, no cancel request, not too many
        deaths, and no step of another version."""
        well = (
            instance.failure is None
            and instance.cancel_reason is None
            and instance.lone_deaths <= config().max_takeovers
        )
        return well and instance.journal.keys() <= self._saga.names

    async def _run_step(
        self, step: Step, instances: list[Instance], others: list[Instance]
    ) -> Sequence[Instance]:
        """Runs one step for the instances of a batch. Returns those that leave it."""
        if len(instances) == 1:
            if others:  # they are already past this step
                self._detach(instances)
            else:
                await run_saga(self._saga, instances[0])
            return instances
        leaving = await self._run_shared(step, instances)
        gone = set(leaving)
        # Never continue with a step that the journal does not have as done, for whatever reason.
        unfinished = [
            instance
            for instance in instances
            if not instance.done(step.name) and instance not in gone and not instance.lost
        ]
        self._detach(unfinished)
        return [*leaving, *unfinished]

    async def _reload_and_run(self, instances: Sequence[Instance]) -> None:
        """Runs a batch for which it is unclear what was committed."""
        async with transaction() as tx:
            held = await journal.verify_ownership(tx, instances)
            await journal.load(tx, held)
        await self._batch(held)

    async def _run_shared(self, step: Step, instances: Sequence[Instance]) -> list[Instance]:
        """Runs one step in one task run. Returns the instances that leave the batch."""
        execution = execution_of(self._saga, step, instances, straggler_timeout=config().straggler_seconds)
        try:
            await run_step(execution)
        except BatchFailing as failing:
            # Retries did not help: each instance continues with its own retries, a few at a time.
            log.warning("%s; they continue one by one", failing)
        except StepError as failure:  # concerns all instances, for example a database timeout
            if not is_postponement(failure):
                raise
            await postpone_failed(dict.fromkeys(instances, failure))
            return list(instances)
        if self._saga.is_past_pivot(step.name):  # nothing is compensated any more: each is retried alone
            self._detach([*execution.detached, *execution.failed])
        else:
            self._detach(execution.detached)
            self._compensate(execution)
        await postpone_failed(execution.postponed)
        return [*execution.detached, *execution.failed, *execution.postponed]

    def _detach(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            self._start_task(self.detached, self._run_detached(instance), [instance])

    def _compensate(self, execution: StepExecution) -> None:
        failed = list(execution.failed)
        for instance, failure in execution.failed.items():
            instance.fail(execution.step.name, failure)
        if failed:
            self._start_task(self.detached, compensate(self._saga, failed), failed)

    async def _run_detached(self, instance: Instance, *, reload_first: bool = False) -> None:
        """Runs the saga of a detached instance. `reload_first`: its state in memory may be one that a
        transaction did not commit."""
        async with self._detached_slots:
            if reload_first:
                await reload(instance)
            if not instance.lost:
                await run_saga(self._saga, instance)

    def _start_task(
        self,
        group: set[asyncio.Task[None]],
        coroutine: Coroutine[Any, Any, Any],
        instances: Sequence[Instance],
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(coroutine, instances))
        group.add(task)
        self._tasks |= dict.fromkeys(instances, task)

        def gone(task: asyncio.Task[None]) -> None:
            group.discard(task)
            for instance in self._assigned_to(task, instances):
                del self._tasks[instance]
            self.changed.set()
            self.ended.set()

        task.add_done_callback(gone)
        return task

    async def _guarded(self, coroutine: Coroutine[Any, Any, Any], instances: Sequence[Instance]) -> None:
        """Runs the coroutine and handles its errors. This worker keeps renewing its lease, so it has to
        release instances that it cannot continue: no other worker could claim them."""
        if len(instances) == 1:
            bind_instance(instances[0])
        try:
            await coroutine
        except LeaseLost as lost:
            log.warning("instance %s has been taken over by another worker", lost)
        except Exception as error:  # noqa: BLE001
            await self._recover_from(error, self._owned_by_current_task(instances))
        except asyncio.CancelledError:
            raise
        except BaseException as stopped:  # noqa: BLE001  (`check` raises it where the run can end)
            self._stopped = stopped

    def _assigned_to(self, task: asyncio.Task[None] | None, instances: Sequence[Instance]) -> list[Instance]:
        return [instance for instance in instances if self._tasks.get(instance) is task]

    def _owned_by_current_task(self, instances: Sequence[Instance]) -> list[Instance]:
        """Returns the instances that this worker holds and that are assigned to no other task."""
        return [
            instance for instance in self._assigned_to(asyncio.current_task(), instances) if not instance.lost
        ]

    async def _recover_from(self, error: Exception, instances: Sequence[Instance]) -> None:
        """Continues instances whose task failed.

        One of them may be the cause: each continues alone, so that the cause fails alone; a single instance
        is released with a pause that grows with each claim. After an infrastructure error all are released
        with a short pause. Because such an error can also come from one instance, or from too many at once,
        instances that were claimed before continue in halves.
        """
        log.warning(
            "running %d instances failed (%s); they are retried", len(instances), type(error).__name__
        )
        infrastructure = is_infrastructure_error(error)
        if not infrastructure:
            log.exception("unexpected error", exc_info=error)
        if len(instances) == 1:
            longest = _LONGEST_INFRASTRUCTURE_PAUSE_SECONDS if infrastructure else LONGEST_ASIDE_SECONDS
            await self._release(instances, seconds=min(longest, 2 ** min(instances[0].fence, 30)))
        elif not infrastructure:
            for instance in instances:
                self._start_task(self.detached, self._run_detached(instance, reload_first=True), [instance])
        elif all(instance.fence == 1 for instance in instances):
            await self._release(instances, seconds=1)
        else:
            await retry_while_database_down(_check_database)
            middle = len(instances) // 2
            for half in (instances[:middle], instances[middle:]):
                self._start_task(self.batches, self._reload_and_run(half), half)

    async def _release(self, instances: Sequence[Instance], seconds: float) -> None:
        """Releases the instances with a pause; retries while the database is unreachable, because nothing
        else can be done without it.

        After other errors the instances are released one by one. Sets `unreleased` if that fails for the
        duration of a lease.
        """
        left, together = list(instances), len(instances)
        until, pause = time.monotonic() + config().lease_seconds, 0.1
        while left:
            failure: Exception | None = None
            for group in [left[i : i + together] for i in range(0, len(left), together)]:
                try:
                    await postpone(group, seconds)
                except Exception as error:  # noqa: BLE001  (whatever it is: this worker keeps renewing its lease)
                    failure = error
                    if is_unreachable(error):
                        break
                else:
                    left = [instance for instance in left if instance not in group]
            if failure is None:
                return
            log.warning("releasing %d instances failed (%s); retrying", len(left), type(failure).__name__)
            if is_unreachable(failure):  # unreachable, or too slow for this many instances
                together = max(together // 2, min(together, _SMALL_GROUP))
            elif together > 1:
                together = 1
            elif time.monotonic() > until:
                log.error("%d instances cannot be released for now", len(left), exc_info=failure)
                self.unreleased = True
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2)


async def _do_not_wait() -> bool:
    return False


async def run_claimed(
    saga: Saga,
    store: SagaStore[Any],
    claim: Callable[[UUID, int], Awaitable[Sequence[Instance]]],
    wait: Callable[[], Awaitable[bool]] = _do_not_wait,
) -> int:
    """Claims instances under a lease and takes them to their outcomes, batch after batch, until `claim`
    returns none. Returns how many.

    `claim` also gets how many trials the worker has survived (see `saga.claims`). `wait` is called when
    nothing was claimed, and returns whether to try again.
    """
    runner, claimed, survived = BatchRunner(saga), 0, 0
    async with cancelled_by_sigterm(), lease(store) as lease_id, AsyncExitStack() as stack:
        # One share of each limit for the whole run: instances that run concurrently have one lease.
        for limit in saga.limits:
            await stack.enter_async_context(share(limit, store, lease_id, wanted=limit.most()))
        try:
            while (instances := await claim(lease_id, survived)) or await wait():
                if not instances:
                    continue
                claimed += len(instances)
                runner.start(instances)
                await runner.finish_up()
                runner.check()
                survived += any(instance.on_trial for instance in instances)
        except BaseException:  # what is not finished by then is released with the lease
            await runner.finish_up(GRACE_SECONDS)
            raise
    return claimed


async def _check_database() -> None:
    """Raises if the database does not answer."""
    async with transaction() as tx:
        await tx.execute(_PING)
