"""Runs a step's external action: commits the intent, runs the calls concurrently, commits the results.

An instance whose failure is transient, or whose call is slow, is detached from its batch and continues alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from saga import journal
from saga.connections import measuring_waits
from saga.database import TRANSACTION_SECONDS, is_database_error, transaction
from saga.errors import DatabaseTimeout, LeaseLost, StepError, StepTimeout
from saga.execution import (
    INTENT,
    RESULT,
    DatabaseAction,
    ExternalAction,
    Result,
    StepExecution,
    as_step_error,
    record_failure,
)
from saga.instance import Instance
from saga.limit import CallTimer, timed
from saga.log_context import bind_instance
from saga.yielding import yielding

_ALARM_SECONDS = 0.05
"""The shortest interval between two checks for calls whose time is over."""
KnownResult = Callable[[Instance], Result | None]
"""Returns the result of an external action that needs no call for this instance; None: it needs one."""


async def run_external(
    execution: StepExecution,
    action: ExternalAction,
    then: DatabaseAction | None = None,
    known: KnownResult | None = None,
) -> None:
    """Runs an external action: intent, call, result. Raises only what concerns all instances, or a single
    one's failure.

    `known`: for a step that changes nothing, returns the result for an instance that needs no call.
    `then`: the database action for the instances whose call succeeded. It runs in the transaction that
    journals the result, and its result is the step's.
    """
    if not (todo := await execution.start()):
        return
    held, began = todo, time.monotonic()
    if execution.changes_nothing:
        with execution.recorded(INTENT):
            pass
        if known is not None and not (held := await _settle_known(execution, todo, known, began)):
            return
    else:
        begun, recently = execution.begun_ahead(todo)
        if not recently:
            held = await _begin(execution, todo, begun)
    calls = _calls(execution, action, held)
    try:
        await _wait_for_calls(execution, list(calls.values()))
    except BaseException:
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        raise
    try:
        await _record_ends(execution, calls, began, then)
    except Exception as error:
        # Nothing is written: keep answers and running calls, so that no call is repeated.
        if is_database_error(error):
            _keep_calls(execution, calls)
            raise
        if then is None or isinstance(error, StepError | LeaseLost):
            raise
        if len(execution.instances) > 1:  # one instance failed the statement for all
            _keep_calls(execution, calls)
            execution.detached += [instance for instance in calls if not instance.lost]
            return
        failure = as_step_error(execution, held[0], error)
        await record_failure(execution, held[0], failure, begun=True)
        execution.settle({held[0]: failure})


async def _settle_known(
    execution: StepExecution, todo: Sequence[Instance], known: KnownResult, began: float
) -> list[Instance]:
    """Settles the instances whose result is known. Returns the others, and those for which this failed: their
    call shows why."""
    results: dict[Instance, Result] = {}
    async for instance in yielding(todo):
        with suppress(Exception):
            if (result := known(instance)) is not None:
                results[instance] = result
    if results:
        with execution.recorded(RESULT):
            journal.defer(execution.records(results, begun=False, began=began))
        execution.settle(results)
    return [instance for instance in todo if instance not in results]


async def _begin(
    execution: StepExecution, todo: Sequence[Instance], begun: Collection[Instance]
) -> list[Instance]:
    """Commits the intents, except those that are `begun`. Returns the instances whose call is to be made."""
    async with transaction(execution.recorded(INTENT)) as tx:
        held = await journal.verify_ownership(tx, todo)
        fresh = [i for i in held if execution.key not in i.in_flight and i not in begun]
        stopped = await journal.cancel_requests(tx, fresh) if fresh and not execution.undo else {}
        if fresh := [instance for instance in fresh if instance not in stopped]:
            await execution.begin(tx, fresh)
    if stopped:
        execution.settle(stopped)
    return [instance for instance in held if instance not in stopped]


async def _record_ends(
    execution: StepExecution,
    calls: Mapping[Instance, asyncio.Task[Result]],
    began: float,
    then: DatabaseAction | None,
) -> None:
    ends: dict[Instance, Result | StepError] = {}
    # A snapshot: a call that is answered while the other results are written has no result here, and must not
    # continue with them.
    unanswered = {instance: call for instance, call in calls.items() if not call.done()}
    # Yields, because redacting an error's text takes time for each instance that failed.
    async for instance, call in yielding(calls.items()):
        if instance not in unanswered and (end := _end_of(execution, instance, call)) is not None:
            ends[instance] = end
    # In a batch, a transient failure stays "begun": the instance tries again alone.
    final = {
        instance: end
        for instance, end in ends.items()
        if not (isinstance(end, StepError) and end.retryable and len(execution.instances) > 1)
    }
    if execution.changes_nothing:
        with execution.recorded(RESULT):
            journal.defer(execution.records(final, begun=False, began=began))
    elif final:
        async with transaction(
            execution.recorded(RESULT), seconds=max(execution.step.time_limit, TRANSACTION_SECONDS)
        ) as tx:
            still = set(await journal.verify_ownership(tx, final))
            final = {instance: end for instance, end in final.items() if instance in still}
            if then is not None and (
                well := [instance for instance, end in final.items() if not isinstance(end, StepError)]
            ):
                by_id = await then(tx, well)
                final |= {instance: by_id[instance.id] for instance in well}
                ends |= final
            await execution.record(tx, final, begun=True)
    for instance, call in unanswered.items():
        instance.in_flight[execution.key] = call
        execution.detached.append(instance)
    execution.settle({instance: end for instance, end in ends.items() if not instance.lost})


def _keep_calls(execution: StepExecution, calls: Mapping[Instance, asyncio.Task[Result]]) -> None:
    for instance, call in calls.items():
        error = call.exception() if call.done() and not call.cancelled() else None
        if error is None or (isinstance(error, StepError) and not error.retryable):
            instance.in_flight[execution.key] = call


def _calls(
    execution: StepExecution, action: ExternalAction, instances: Sequence[Instance]
) -> dict[Instance, asyncio.Task[Result]]:
    """Starts the calls. A call that was too slow for its batch and still runs is awaited, not repeated."""
    limit = _TimeLimit(execution.step.name, execution.step.time_limit)
    calls = {
        instance: instance.in_flight.pop(execution.key)
        if execution.key in instance.in_flight
        else limit.start(action, instance)
        for instance in instances
    }
    limit.begin()
    return calls


class _TimeLimit:
    """One timer for all calls that start together: a timer for each is a tenth of what an instance costs.
    The time that a call waits for its turn (`saga.limit`) does not count."""

    def __init__(self, step: str, seconds: float) -> None:
        self._step, self._seconds = step, seconds
        self._calls: dict[asyncio.Task[Result], CallTimer] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def start(self, action: ExternalAction, instance: Instance) -> asyncio.Task[Result]:
        timer = CallTimer()
        call = asyncio.create_task(self._limited(action, instance, timer))
        self._calls[call] = timer
        call.add_done_callback(self._ended)
        return call

    def begin(self) -> None:
        if self._calls:
            self._call_later(self._seconds)

    def _call_later(self, seconds: float) -> None:
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._cancel_expired)

    def _ended(self, call: asyncio.Task[Result]) -> None:
        del self._calls[call]
        if not self._calls and self._alarm is not None:
            self._alarm.cancel()

    def _cancel_expired(self) -> None:
        shortest = self._seconds
        for call, timer in self._calls.items():
            if (left := self._seconds - timer.seconds) > 0:
                shortest = min(shortest, left)
            else:
                timer.expired = True
                call.cancel()
        self._call_later(max(shortest, _ALARM_SECONDS))

    async def _limited(self, action: ExternalAction, instance: Instance, timer: CallTimer) -> Result:
        bind_instance(instance)
        timed(timer)
        with measuring_waits() as waited:
            try:
                return await action(instance)
            except (TimeoutError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and not timer.expired:
                    raise
                # The call spent its time waiting for our database: nothing is decided about the instance.
                if waited.interrupted or waited.seconds > self._seconds / 2:
                    raise DatabaseTimeout(self._step, self._seconds) from error
                raise StepTimeout(self._step, self._seconds) from error


async def _wait_for_calls(execution: StepExecution, calls: Sequence[asyncio.Task[Result]]) -> None:
    """Waits for all calls; stops waiting for the last few when none answers within the straggler timeout."""
    left, answer = len(calls), asyncio.Event()

    def answered(_: asyncio.Task[Result]) -> None:
        nonlocal left
        left -= 1
        answer.set()

    for call in calls:
        call.add_done_callback(answered)
    while left:
        answer.clear()
        try:
            async with asyncio.timeout(execution.straggler_timeout):
                await answer.wait()
        except TimeoutError:
            if execution.is_minority(left):
                return


def _end_of(
    execution: StepExecution, instance: Instance, call: asyncio.Task[Result]
) -> Result | StepError | None:
    """Returns the call's result; None if another worker owns the instance. Raises database errors, which
    concern all instances."""
    error = call.exception() if not call.cancelled() else asyncio.CancelledError()
    if error is None:
        return call.result()
    if isinstance(error, StepError):
        return instance.store.hooks.redacted(error, instance)
    if isinstance(error, LeaseLost):
        instance.lost = True
        return None
    if is_database_error(error) or not isinstance(error, Exception):
        raise error
    return as_step_error(execution, instance, error)
