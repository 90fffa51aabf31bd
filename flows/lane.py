"""A lane: orders under way side by side in one flow run, in batches and alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

from prefect.logging import get_logger
from sqlalchemy import text

from flows.process_order import reload, see_through
from flows.saga import ORDER_SAGA
from flows.undo import compensate
from flows.waiting import has_to_wait, let_wait
from shop import journal
from shop.cancelling import cancel
from shop.database import does_not_answer, patiently, transaction
from shop.ending import finish, put_off
from shop.errors import BatchStruggling, LeaseLost, OrderError
from shop.infrastructure import is_infrastructure_trouble
from shop.journal import LONGEST_ASIDE_SECONDS
from shop.monitoring.log_context import about_order
from shop.saga import Step
from shop.settings import settings
from shop.under_way import OrderUnderWay
from shop.work import Work
from tasks.step import run

log = get_logger("orders")
GRACE_SECONDS = 5
"""For a run that has to go: so long it goes on with what it has in hand. What is not done by then is handed back: orders do not wait for a
worker that leaves."""
_ALONE_AT_ONCE = 32
_ANYTHING = text("SELECT 1")
_LONGEST_TROUBLE_SECONDS = 60
"""Limits the pause of an order for which the database, or something like it, is in trouble whenever it is tried alone."""
_FEW = 100
"""So many orders are handed back together also on a database that does not answer."""


class Lane:
    """Keeps what is under way. Nothing that happens to one order or batch disturbs another."""

    def __init__(self) -> None:
        self.batches: set[asyncio.Task[None]] = set()
        self.beside: set[asyncio.Task[None]] = set()
        """Orders that left their batch: failed ones on their way back, slow ones on their way forward."""
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()
        """Both set whenever something is no longer under way; each has its own listener."""
        self._holders: dict[OrderUnderWay, asyncio.Task[None]] = {}
        """Each order's task: the last one that it was given to. An order that leaves its batch is the batch's no more."""
        self._alone = asyncio.Semaphore(_ALONE_AT_ONCE)
        self.left_over = False
        """Whether orders could not be handed back, so that nobody works on them and nobody else can have them."""
        self._stopped: BaseException | None = None
        """What stopped an order's work and is about the whole run: it is suspended."""
        self._started_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.batches and not self.beside

    @property
    def in_hand(self) -> Iterator[OrderUnderWay]:
        """All orders that this lane may be working on."""
        return iter(self._holders)

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is under way and nothing was started for so long."""
        return self.idle and time.monotonic() - self._started_at > seconds

    def start(self, orders: Sequence[OrderUnderWay]) -> None:
        """Takes a batch to its outcomes."""
        self._started_at = time.monotonic()
        self._keep(self.batches, self._batch(orders), orders)

    def check(self) -> None:
        """Raises what stopped the run, if anything did. The orders that it stopped are handed back with the lease."""
        if self._stopped is not None:
            raise self._stopped

    async def finish_up(self, seconds: float | None = None) -> None:
        """Waits until nothing is under way, at most so long, and cancels what is left; it is handed back with the lease."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.idle:
                    await asyncio.wait(self.batches | self.beside)
        await cancel(self.batches | self.beside)

    async def _batch(self, orders: Sequence[OrderUnderWay]) -> None:
        """The saga for many orders that share each task run. Those that fail and those that are slow leave the batch; the rest go on."""
        straight = [order for order in orders if _goes_on(order)]
        others = set(orders) - set(straight)
        self._let_go(list(others))
        orders = straight
        for step in ORDER_SAGA:
            if len(orders) == 1:
                await see_through(orders[0])
                return
            todo = [order for order in orders if not order.done(step.name)]
            if not todo:
                continue
            if len(todo) == 1:  # the others are further already
                leaving = todo
                self._let_go(todo)
            else:
                leaving = await self._step(step, todo)
            gone = set(leaving)
            left = [order for order in orders if order not in gone and not order.lost]
            orders = [order for order in left if order.done(step.name)]
            if len(orders) < len(left):  # never on with what the journal does not have as done, whatever the reason
                self._let_go([order for order in left if not order.done(step.name)])
        await finish(orders, ORDER_SAGA)

    async def _anew(self, orders: Sequence[OrderUnderWay]) -> None:
        """A batch of which it is unclear what was committed."""
        async with transaction() as tx:
            held = await journal.hold(tx, orders)
            await journal.load(tx, held)
        await self._batch(held)

    async def _step(self, step: Step, orders: Sequence[OrderUnderWay]) -> list[OrderUnderWay]:
        """One step for the batch. Returns those that leave it here."""
        work = Work(step, orders, patience=settings().straggler_seconds)
        try:
            await run(work)
        except BatchStruggling as struggling:  # retries did not help: each has retries of its own, a few at a time
            log.warning("%s; they go on one by one", struggling)
        except OrderError as failure:  # of all of them: the database took too long, say
            if not has_to_wait(failure):
                raise
            await let_wait(dict.fromkeys(orders, failure))
            return list(orders)
        if ORDER_SAGA.is_past_pivot(step.name):  # nothing to undo any more: tried again, alone
            self._let_go([*work.alone, *work.failed])
        else:
            self._let_go(work.alone)
            self._undo(work)
        await let_wait(work.waiting)
        return [*work.alone, *work.failed, *work.waiting]

    def _let_go(self, orders: Sequence[OrderUnderWay]) -> None:
        for order in orders:
            self._keep(self.beside, self._see_through(order), [order])

    def _undo(self, work: Work) -> None:
        failed = list(work.failed)
        for order, failure in work.failed.items():
            order.fail(work.step.name, failure)
        if failed:
            self._keep(self.beside, compensate(failed), failed)

    async def _see_through(self, order: OrderUnderWay, *, anew: bool = False) -> None:
        """`anew`: what is known of the order may be what a transaction did not commit."""
        async with self._alone:
            if anew:
                await reload(order)
            if not order.lost:
                await see_through(order)

    def _keep(self, where: set[asyncio.Task[None]], doing: Coroutine[Any, Any, Any], orders: Sequence[OrderUnderWay]) -> None:
        task = asyncio.create_task(self._guarded(doing, orders))
        where.add(task)
        self._holders |= dict.fromkeys(orders, task)

        def gone(task: asyncio.Task[None]) -> None:
            where.discard(task)
            for order in self._held_by(task, orders):
                del self._holders[order]
            self.changed.set()
            self.ended.set()

        task.add_done_callback(gone)

    async def _guarded(self, doing: Coroutine[Any, Any, Any], orders: Sequence[OrderUnderWay]) -> None:
        """This worker's lease goes on living, so orders that it can do nothing for have to be handed back, or nobody ever could."""
        if len(orders) == 1:
            about_order(orders[0].id)
        try:
            await doing
        except LeaseLost as lost:
            log.warning("order %s has been taken over by another worker", lost)
        except Exception as error:  # noqa: BLE001
            await self._after(error, self._still_of(orders))
        except asyncio.CancelledError:
            raise
        except BaseException as stopped:  # noqa: BLE001  (`check` raises it where the run can end)
            self._stopped = stopped

    def _held_by(self, task: asyncio.Task[None] | None, orders: Sequence[OrderUnderWay]) -> list[OrderUnderWay]:
        return [order for order in orders if self._holders.get(order) is task]

    def _still_of(self, orders: Sequence[OrderUnderWay]) -> list[OrderUnderWay]:
        """Those that are this worker's, and that nothing else here is working on."""
        return [order for order in self._held_by(asyncio.current_task(), orders) if not order.lost]

    async def _after(self, error: Exception, orders: Sequence[OrderUnderWay]) -> None:
        """What ended the work on these orders may be the fault of one of them: each goes on alone, and the culprit fails alone. Then it
        is handed back for a pause that grows with each claim. Infrastructure that is in trouble gets a moment; but some of that trouble is
        one order's, or that of too many at once: those that come back go on in halves."""
        log.warning("%d orders could not be worked on (%s); they are taken up again", len(orders), type(error).__name__)
        infrastructure = is_infrastructure_trouble(error)
        if not infrastructure:
            log.exception("this should not have happened", exc_info=error)
        if len(orders) == 1:
            longest = _LONGEST_TROUBLE_SECONDS if infrastructure else LONGEST_ASIDE_SECONDS
            await self._hand_back(orders, seconds=min(longest, 2 ** min(orders[0].fence, 30)))
        elif not infrastructure:
            for order in orders:
                self._keep(self.beside, self._see_through(order, anew=True), [order])
        elif all(order.fence == 1 for order in orders):
            await self._hand_back(orders, seconds=1)
        else:
            await patiently(_ask)
            middle = len(orders) // 2
            for half in (orders[:middle], orders[middle:]):
                self._keep(self.batches, self._anew(half), half)

    async def _hand_back(self, orders: Sequence[OrderUnderWay], seconds: float) -> None:
        """Tries until it is done: without the database nothing else can be done either. If something else is wrong they are handed back
        one by one, and those for which that fails for the time of a lease are left over."""
        left, together = list(orders), len(orders)
        until, pause = time.monotonic() + settings().lease_seconds, 0.1
        while left:
            trouble: Exception | None = None
            for group in [left[i : i + together] for i in range(0, len(left), together)]:
                try:
                    await put_off(group, seconds)
                except Exception as error:  # noqa: BLE001  (whatever it is: this worker's lease goes on living)
                    trouble = error
                    if does_not_answer(error):
                        break
                else:
                    left = [order for order in left if order not in group]
            if trouble is None:
                return
            log.warning("%d orders could not be handed back (%s); trying again", len(left), type(trouble).__name__)
            if does_not_answer(trouble):  # unreachable, or too slow for that many orders
                together = max(together // 2, min(together, _FEW))
            elif together > 1:
                together = 1
            elif time.monotonic() > until:
                log.error("%d orders cannot be handed back for now", len(left), exc_info=trouble)
                self.left_over = True
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2)


async def _ask() -> None:
    """Raises if the database does not answer."""
    async with transaction() as tx:
        await tx.execute(_ANYTHING)


def _goes_on(order: OrderUnderWay) -> bool:
    """Whether there is nothing about it that sets it apart from its batch."""
    return order.failure is None and order.cancel_reason is None and order.lone_deaths <= settings().max_takeovers
