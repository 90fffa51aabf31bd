"""Running one step, or its compensation, for many orders: journal before effect, each order with its own end.

Two shapes of action:

- *in the database*: set-based, given the transaction and the orders; its effect and the journal rows are one commit.
- *outside*: written for one order. The intent is committed, hundreds run side by side, the results are committed together. An order
  that fails in a way that may pass, or that is slow, leaves its batch to go on alone.

And both, for an effect in our database that something outside comes before: outside as above, and what is in the database is done in the
transaction that commits the results.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from shop import journal
from shop.connections import measuring_waits
from shop.customer_words import hidden, without_customer
from shop.database import TRANSACTION_SECONDS, Tx, is_database_trouble, transaction
from shop.errors import BatchStruggling, DatabaseTimeout, InfrastructureTrouble, LeaseLost, OrderError, StepBroken, StepTimeout
from shop.infrastructure import is_infrastructure_trouble
from shop.journal import Record
from shop.monitoring.log_context import about_order
from shop.points import Effect, effect
from shop.saga import Kind, Step
from shop.turns import in_turns
from shop.under_way import OrderUnderWay

log = logging.getLogger(__name__)

_MINORITY = 5
"""A fifth of a batch."""
_READ_AT_ONCE = 50
"""Orders that a step which only reads is given at once."""
_INTENT, _RESULT = OUTSIDE = ("intent", "result")
"""What the journal hears of a step that acts outside; of one in the database it hears once."""
Result = BaseModel | Mapping[str, Any]
DatabaseAction = Callable[[Tx, Sequence[OrderUnderWay]], Awaitable[Mapping[str, Result | OrderError]]]
ReadingAction = Callable[[Sequence[OrderUnderWay]], Awaitable[Mapping[str, Result | OrderError]]]
OutsideAction = Callable[[OrderUnderWay], Awaitable[Result]]


def recording(task: object, part: str = "") -> str:
    """Names what the journal hears of a step or compensation; see `shop.points`."""
    return f"the record of {getattr(task, '__name__', task)}{part and ', '}{part}"


class Work:
    """One step (or, with `undo`, its compensation) for some orders, and how it went.

    A plain object, which Prefect does not look into when it is a task's parameter (that costs more than the task itself).
    """

    def __init__(self, step: Step, orders: Sequence[OrderUnderWay], *, undo: bool = False, patience: float | None = None) -> None:
        self.step, self.orders, self.undo = step, list(orders), undo
        self.patience = patience if len(orders) > 1 else None
        """Seconds without any answer after which those still out go on alone. None: wait for all."""
        self.done: list[OrderUnderWay] = []
        self.failed: dict[OrderUnderWay, OrderError] = {}
        self.alone: list[OrderUnderWay] = []
        self.waiting: dict[OrderUnderWay, OrderError] = {}
        """For whom trying again makes no sense just now."""
        self.tried = False

    @property
    def key(self) -> str:
        """Names the action: a step and its compensation are two."""
        return f"undo {self.step.name}" if self.undo else self.step.name

    def recorded(self, part: str = "") -> Effect:
        """That the journal has this step, or a part of it."""
        return effect(recording(self.step.undo if self.undo else self.step.task, part))

    @property
    def title(self) -> str:
        """For people: one order by its id, more by their number."""
        return self.orders[0].id if len(self.orders) == 1 else f"{len(self.orders)} orders"

    def summary(self) -> dict[str, Any]:
        """What the task run shows as its result: an order's own result, or the counts of a batch."""
        if len(self.orders) == 1 and self.done:
            entry = self.done[0].journal[self.step.name]
            return dict((entry.undo_result if self.undo else entry.result) or {})
        counts = {"done": len(self.done), "failed": len(self.failed), "going_on_alone": len(self.alone)}
        return {**counts, "waiting": len(self.waiting)} if self.waiting else counts

    async def start(self) -> list[OrderUnderWay]:
        """The orders for which there is something to do. On a second attempt it is unclear what the first one committed."""
        if self.tried:
            async with transaction() as tx:
                await journal.load(tx, self.orders)
        self.tried, self.alone = True, []
        settled = {*self.failed, *self.waiting}
        todo = [order for order in self.orders if not order.lost and order not in settled and self._to_do(order)]
        not_done = {*todo, *settled}
        self.done = [order for order in self.orders if not order.lost and order not in not_done]
        return todo

    def _to_do(self, order: OrderUnderWay) -> bool:
        if not self.undo:
            return not order.done(self.step.name)
        entry = order.journal.get(self.step.name)
        return entry is not None and entry.undo_due

    @property
    def changes_nothing(self) -> bool:
        """A step without an effect needs no intent, and its end is written with what comes next."""
        return not self.undo and self.step.kind is Kind.READ_ONLY

    async def begin(self, tx: Tx, orders: Sequence[OrderUnderWay]) -> None:
        """Journals the intent."""
        if self.undo:
            await journal.begin_undo(tx, self.step.name, orders)
        elif not self.changes_nothing:
            due = self.step.undo is not None  # also the pivot's, until it is done: what it needs from outside may be there
            await journal.write(tx, [Record(order, self.step.name, "begun", undo_due=due) for order in orders])

    async def record(self, tx: Tx, ends: Mapping[OrderUnderWay, Result | OrderError], *, begun: bool) -> None:
        """Journals the ends."""
        records = self.records(ends, begun=begun)
        if self.undo:
            await journal.write_undo(tx, self.step.name, records)
        else:
            await journal.write(tx, records)

    def records(self, ends: Mapping[OrderUnderWay, Result | OrderError], *, begun: bool, began: float | None = None) -> list[Record]:
        """The ends as the journal has them. A failure inside its own transaction did nothing, so that nothing is due; one outside may
        have done something."""
        compensatable, undoable, step = self.step.kind is Kind.COMPENSATABLE, self.step.undo is not None, self.step.name
        ended = time.monotonic() if began else None
        return [
            Record(order, step, "failed", None, end.details(), undoable and begun, not begun, began, ended)
            if isinstance(end, OrderError)
            else Record(order, step, "done", _json(end), None, compensatable, not begun, began, ended)
            for order, end in ends.items()
        ]

    def settle(self, ends: Mapping[OrderUnderWay, Result | OrderError]) -> None:
        """Sorts the orders by how they ended. Raises a single order's failure, so that its task run fails, and retries if that can
        help; and `BatchStruggling` when too many failed for each to go on alone."""
        for order, end in ends.items():
            if not isinstance(end, OrderError):
                self.done.append(order)
            elif end.retry_after is not None and len(self.orders) > 1:
                self.waiting[order] = end
            elif end.retryable and len(self.orders) > 1:
                self.alone.append(order)
            else:
                self.failed[order] = end
        if len(self.orders) == 1:
            self._raise_own()
        elif not self.is_minority(len(self.alone)):
            raise BatchStruggling(self.step.name, len(self.alone), len(self.orders))

    def is_minority(self, orders: int) -> bool:
        """Whether so many may leave the batch. More is no matter of single orders, and a crowd on its own would be slower still."""
        return orders <= max(1, len(self.orders) // _MINORITY)

    def _raise_own(self) -> None:
        order = self.orders[0]
        if order.lost:
            raise LeaseLost(order.id)
        if (failure := self.failed.pop(order, None)) is not None:
            raise failure


async def run_in_database(work: Work, action: DatabaseAction) -> None:
    """Effect and journal in one transaction. Raises only what concerns all orders, or a single one's own failure."""

    async def act(todo: list[OrderUnderWay]) -> dict[OrderUnderWay, Result | OrderError]:
        # The step's own limit comes first: it says whose time was over.
        async with transaction(work.recorded(), seconds=work.step.time_limit + TRANSACTION_SECONDS) as tx:
            return await _act(work, action, tx, todo)

    await _run(work, act, seconds=work.step.time_limit)


async def run_reading(work: Work, action: ReadingAction) -> None:
    """A step that changes nothing and opens its own transactions, so that none is open while it calculates. Raises as `run_in_database`.

    Few orders at a time, each with the step's time limit: what is calculated takes time and memory in proportion to their number.
    """

    async def act(todo: list[OrderUnderWay]) -> dict[OrderUnderWay, Result | OrderError]:
        ends: dict[OrderUnderWay, Result | OrderError] = {}
        for place in range(0, len(todo), _READ_AT_ONCE):
            some, began = todo[place : place + _READ_AT_ONCE], time.monotonic()
            async with asyncio.timeout(work.step.time_limit):
                with work.recorded():
                    by_id = await action(some)
            read = {order: by_id[order.id] for order in some}
            journal.remember(work.records(read, begun=False, began=began))
            ends |= read
        return ends

    await _run(work, act, seconds=None)


async def _run(
    work: Work, act: Callable[[list[OrderUnderWay]], Awaitable[dict[OrderUnderWay, Result | OrderError]]], *, seconds: float | None
) -> None:
    if not (todo := await work.start()):
        return
    try:
        async with asyncio.timeout(seconds):
            ends = await act(todo)
    except TimeoutError as error:
        raise DatabaseTimeout(work.step.name, work.step.time_limit) from error
    except Exception as error:
        if is_database_trouble(error):
            raise
        if len(work.orders) > 1:  # one order spoiled the statement for all: each goes on alone, and the culprit fails alone
            work.alone += todo
            return
        broken = _broken(work, todo[0], error)
        await _record_broken(work, todo[0], broken)
        ends = {todo[0]: broken}
    work.settle(ends)


async def _act(work: Work, action: DatabaseAction, tx: Tx, todo: list[OrderUnderWay]) -> dict[OrderUnderWay, Result | OrderError]:
    if work.changes_nothing:
        began = time.monotonic()
        by_id = await action(tx, todo)
        ends = {order: by_id[order.id] for order in todo}
        journal.remember(work.records(ends, begun=False, began=began))
        return ends
    held = await journal.hold(tx, todo)
    if not held:
        return {}
    if work.undo:
        await work.begin(tx, held)
    by_id = await action(tx, held)
    ends = {order: by_id[order.id] for order in held}
    await work.record(tx, ends, begun=work.undo)
    return ends


async def _record_broken(work: Work, order: OrderUnderWay, broken: OrderError, *, begun: bool = False) -> None:
    """`begun`: the journal has its beginning already."""
    async with transaction(work.recorded(_RESULT if begun else "")) as tx:
        if await journal.hold(tx, [order]):
            if work.undo and not begun:
                await work.begin(tx, [order])
            await work.record(tx, {order: broken}, begun=work.undo or begun)


async def run_outside(work: Work, action: OutsideAction, then: DatabaseAction | None = None) -> None:
    """Intent, act, result. Raises only what concerns all orders, or a single one's own failure.

    `then`: what is done in the database for those orders whose action went well, in the transaction that journals the result, which is its.
    """
    if not (todo := await work.start()):
        return
    held, began = todo, time.monotonic()
    if work.changes_nothing:
        with work.recorded(_INTENT):
            pass
    else:
        async with transaction(work.recorded(_INTENT)) as tx:
            held = await journal.hold(tx, todo)
            fresh = [order for order in held if work.key not in order.in_flight]
            stopped = await journal.asked_to_stop(tx, fresh) if fresh and not work.undo else {}
            if fresh := [order for order in fresh if order not in stopped]:
                await work.begin(tx, fresh)
        held = [order for order in held if order not in stopped]
        if stopped:
            work.settle(stopped)
    calls = _calls(work, action, held)
    try:
        await _wait(work, list(calls.values()))
    except BaseException:
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        raise
    try:
        await _record_ends(work, calls, began, then)
    except Exception as error:
        if is_database_trouble(error):  # nothing is written; what was answered, and who is still out, is not asked again
            _keep(work, calls)
            raise
        if then is None or isinstance(error, OrderError | LeaseLost):
            raise
        if len(work.orders) > 1:  # one order spoiled the statement for all
            _keep(work, calls)
            work.alone += [order for order in calls if not order.lost]
            return
        broken = _broken(work, held[0], error)
        await _record_broken(work, held[0], broken, begun=True)
        work.settle({held[0]: broken})


async def _record_ends(work: Work, calls: Mapping[OrderUnderWay, asyncio.Task[Result]], began: float, then: DatabaseAction | None) -> None:
    ends: dict[OrderUnderWay, Result | OrderError] = {}
    # Looked at once: who is answered while the others' ends are written has none here, and must not go on with them.
    out = {order: call for order, call in calls.items() if not call.done()}
    async for order, call in in_turns(calls.items()):  # what others said is read for each that failed
        if order not in out and (end := _end(work, order, call)) is not None:
            ends[order] = end
    # In a batch, a failure that may pass stays "begun": it is not the end of it.
    final = {order: end for order, end in ends.items() if not (isinstance(end, OrderError) and end.retryable and len(work.orders) > 1)}
    if work.changes_nothing:
        with work.recorded(_RESULT):
            journal.remember(work.records(final, begun=False, began=began))
    elif final:
        async with transaction(work.recorded(_RESULT), seconds=max(work.step.time_limit, TRANSACTION_SECONDS)) as tx:
            still = set(await journal.hold(tx, final))
            final = {order: end for order, end in final.items() if order in still}
            if then is not None and (well := [order for order, end in final.items() if not isinstance(end, OrderError)]):
                by_id = await then(tx, well)
                final |= {order: by_id[order.id] for order in well}
                ends |= final
            await work.record(tx, final, begun=True)
    for order, call in out.items():
        order.in_flight[work.key] = call
        work.alone.append(order)
    work.settle({order: end for order, end in ends.items() if not order.lost})


def _keep(work: Work, calls: Mapping[OrderUnderWay, asyncio.Task[Result]]) -> None:
    for order, call in calls.items():
        error = call.exception() if call.done() and not call.cancelled() else None
        if error is None or (isinstance(error, OrderError) and not error.retryable):
            order.in_flight[work.key] = call


def _calls(work: Work, action: OutsideAction, orders: Sequence[OrderUnderWay]) -> dict[OrderUnderWay, asyncio.Task[Result]]:
    """A call that was too slow for its batch is waited for, not made again."""
    limit = _TimeLimit(work.step.name, work.step.time_limit)
    calls = {order: order.in_flight.pop(work.key) if work.key in order.in_flight else limit.start(action, order) for order in orders}
    limit.begin()
    return calls


class _TimeLimit:
    """One clock for all calls that start together: a timer for each is a tenth of what an order costs."""

    def __init__(self, step: str, seconds: float) -> None:
        self._step, self._seconds = step, seconds
        self._over = False
        self._calls: set[asyncio.Task[Result]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, action: OutsideAction, order: OrderUnderWay) -> asyncio.Task[Result]:
        call = asyncio.create_task(self._limited(action, order))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return call

    def begin(self) -> None:
        if self._calls:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._stop)

    def _ended(self, call: asyncio.Task[Result]) -> None:
        self._calls.discard(call)
        if not self._calls and self._timer is not None:
            self._timer.cancel()

    def _stop(self) -> None:
        self._over = True
        for call in self._calls:
            call.cancel()

    async def _limited(self, action: OutsideAction, order: OrderUnderWay) -> Result:
        about_order(order.id)
        with measuring_waits() as waited:
            try:
                return await action(order)
            except (TimeoutError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and not self._over:
                    raise
                # The time was our database's: nothing is decided about the order.
                if waited.interrupted or waited.seconds > self._seconds / 2:
                    raise DatabaseTimeout(self._step, self._seconds) from error
                raise StepTimeout(self._step, self._seconds) from error


async def _wait(work: Work, calls: Sequence[asyncio.Task[Result]]) -> None:
    """Waits for all; but for the last few only while somebody answers now and then."""
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
            async with asyncio.timeout(work.patience):
                await answer.wait()
        except TimeoutError:
            if work.is_minority(left):
                return


def _end(work: Work, order: OrderUnderWay, call: asyncio.Task[Result]) -> Result | OrderError | None:
    """None: the order is another worker's now. Raises when the database is in trouble, which concerns everybody."""
    error = call.exception() if not call.cancelled() else asyncio.CancelledError()
    if error is None:
        return call.result()
    if isinstance(error, OrderError):
        return hidden(error, order.content)
    if isinstance(error, LeaseLost):
        order.lost = True
        return None
    if is_database_trouble(error) or not isinstance(error, Exception):
        raise error
    return _broken(work, order, error)


def _broken(work: Work, order: OrderUnderWay, error: Exception) -> OrderError:
    if isinstance(error, OrderError):
        return hidden(error, order.content)
    if is_infrastructure_trouble(error):
        trouble = InfrastructureTrouble(work.step.name, error)
        log.warning("%s: %s", work.title, trouble)
        return trouble
    trace = without_customer("".join(traceback.format_exception(error)), order.content)
    log.error("%s failed in a way that nobody foresaw (%s)", work.step.name, work.title, extra={"exception": trace})
    return StepBroken(work.step.name, error)


def _json(result: Result) -> dict[str, Any]:
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else dict(result)
