"""The pending lane: many orders share each task run."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows import board
from flows.lane import GRACE_SECONDS, Lane
from flows.progress import Progress
from flows.saga import ORDER_SAGA
from flows.takeover import all_told, tell_of_takeovers
from flows.termination import cancelled_by_sigterm
from shop import journal, signals, tally
from shop.cancelling import cancel
from shop.database import is_database_trouble
from shop.garbage import little_garbage_collection
from shop.lease import hand_back_strays, lease
from shop.monitoring.sampler import sampling
from shop.notifications import outbox
from shop.settings import settings
from shop.signals import Bell
from shop.under_way import OrderUnderWay
from tasks.deliver_outbox import deliver_outbox
from tasks.limits import PAYMENT_GATEWAY, slots

_MAIL_WAITS_SECONDS = 10
"""For so long a mail lets orders go first."""
_QUIET_SECONDS = 0.25
"""For so long no order has come, and none is under way."""
_OUTBOX_SECONDS = 5
"""So often the outbox is looked at for what failed before."""
_MAILS_AT_ONCE = 100
Seconds = Annotated[
    float | None,
    Field(
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long to go on taking orders; 0: until none is waiting. Default: DRAIN_SECONDS",
    ),
]
BatchSize = Annotated[int | None, Field(ge=1, le=5_000, description="How many orders share each task run, at most. Default: BATCH_SIZE")]


def _run_name() -> str:
    return f"pending orders from {datetime.now(UTC):%H:%M:%S}"


@flow(name="process-pending-orders", flow_run_name=_run_name, persist_result=False)
async def process_pending_orders(drain_seconds: Seconds = None, batch_size: BatchSize = None) -> dict[str, int]:
    """Takes waiting orders, and those whose worker died, to their outcomes; up to `batch_size` share each task run.

    Drains for a while, so that new orders find it at work, and is woken when they arrive. Any number may run, on any number of workers.
    """
    seconds = settings().drain_seconds if drain_seconds is None else drain_seconds
    drain = _Drain(batch_size or settings().batch_size)
    with little_garbage_collection(), sampling("drain", flow_run_id=str(flow_run.id)), tally.counting() as counts:
        progress = Progress(counts, lambda: drain.taken)
        async with (
            cancelled_by_sigterm(),
            signals.listening(signals.WAITING, draining=True) as bell,
            slots(PAYMENT_GATEWAY, occupy=settings().payment_concurrency),
            lease() as mine,
        ):
            mailing = asyncio.create_task(drain.mail())
            progress.begin()
            try:
                await drain.take_orders(mine, bell, seconds)
                await drain.lane.finish_up()
                drain.lane.check()
                drain.end()
                await mailing
                await all_told()
                await board.settle()
                await progress.end()
            except GeneratorExit:
                raise
            except BaseException:  # the process is told to end, or the run is suspended: orders in hand are finished or released
                await drain.lane.finish_up(GRACE_SECONDS)
                raise
            finally:
                await cancel([mailing])
                await progress.stop()
    return {"orders": drain.taken, "batches": drain.started}


class _Drain:
    def __init__(self, batch_size: int) -> None:
        self.lane = Lane()
        self.batch_size = batch_size
        self.taken = self.started = 0
        self._unclear = False
        """Whether a claim's answer was lost: it may have been made all the same."""
        self._on_trial = False
        """Whether orders were claimed that may have killed their workers: nothing else is done until they are done."""
        self._survived = 0
        self._mailing = asyncio.Lock()
        self.all_taken = asyncio.Event()
        """No more orders are taken: the mails that are due are the last."""

    @property
    def over(self) -> bool:
        return self.all_taken.is_set()

    def end(self) -> None:
        """Lets `mail` come to its end."""
        self.all_taken.set()
        self.lane.ended.set()

    async def take_orders(self, lease_id: UUID, bell: Bell, seconds: float) -> None:
        """Until the time is over; or, if that is 0, until nothing is waiting."""
        log = get_run_logger()
        until = time.monotonic() + seconds
        while True:
            self.lane.check()
            if self._on_trial and self.lane.idle:
                self._on_trial, self._survived = False, self._survived + 1
            if not self._on_trial and not self._full():
                claimed = await self._claim(lease_id)
                if claimed:
                    self.lane.start(claimed)
                    self.taken, self.started = self.taken + len(claimed), self.started + 1
                    log.info("took %s", f"order {claimed[0].id}" if len(claimed) == 1 else f"{len(claimed)} orders")
                    tell_of_takeovers(claimed)
                    continue
                if seconds == 0 and self.lane.idle:
                    return
            if seconds > 0 and time.monotonic() > until:
                return
            await self._wait(bell)

    async def mail(self) -> None:
        """Sends what is in the outbox. Orders go first: while there are any, only what has waited for some time."""
        while True:
            over, quiet = self.over, self.lane.quiet(_QUIET_SECONDS)
            if await self._mail_some(waited=0 if over or quiet else _MAIL_WAITS_SECONDS):
                continue
            if over:
                return
            with suppress(TimeoutError):
                # not wait_for, which before Python 3.12 can swallow a cancellation
                async with asyncio.timeout(_OUTBOX_SECONDS if quiet else _QUIET_SECONDS):
                    await (self.lane.ended.wait() if quiet else self.all_taken.wait())
            self.lane.ended.clear()

    async def _mail_some(self, *, waited: float) -> bool:
        """Sends some of what has been due for so many seconds. False: nothing was sent."""
        try:
            async with self._mailing:
                if self._on_trial and not self.lane.idle:
                    return False
                return await outbox.is_due(waited=waited) and (await deliver_outbox(_MAILS_AT_ONCE))["sent"] > 0
        except Exception as error:
            if not is_database_trouble(error):
                raise
            return False

    def _full(self) -> bool:
        """Enough batches under way, or too many orders on their own (a gateway that is down): no more for now."""
        return len(self.lane.batches) >= settings().batches_under_way or len(self.lane.beside) > self.batch_size

    async def _claim(self, lease_id: UUID) -> list[OrderUnderWay]:
        take = partial(journal.take, lease_id, most=self.batch_size, flow_run_id=str(flow_run.id), known=ORDER_SAGA.names)
        try:
            await self._hand_back_strays(lease_id)
            if self.lane.idle and not self._mailing.locked():
                async with self._mailing:
                    claimed = await take(alone=True, survived=self._survived)
                    self._on_trial = any(order.on_trial for order in claimed)
            else:
                claimed = await take(alone=False)
        except Exception as error:
            if not is_database_trouble(error):
                raise
            self._unclear = True
            get_run_logger().warning("the database is away (%s); trying again", type(error).__name__)
            return []
        return claimed

    async def _hand_back_strays(self, lease_id: UUID) -> None:
        if not self._unclear and not self.lane.left_over:
            return
        all_handed_back = await hand_back_strays(lease_id, self.lane.in_hand)
        self._unclear = self.lane.left_over = not all_handed_back

    async def _wait(self, bell: Bell) -> None:
        """For new orders, for a batch to end, or for a second: a lease may have run out somewhere."""
        self.lane.changed.clear()
        waits = {asyncio.create_task(bell.wait(settings().poll_seconds)), asyncio.create_task(self.lane.changed.wait())}
        try:
            await asyncio.wait(waits, timeout=settings().poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(waits)
