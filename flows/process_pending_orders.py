"""The batch lane: many orders share each task run."""

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

from flows import attention_artifact
from flows.order_saga import ORDER_SAGA
from flows.progress import Progress
from flows.takeover import report_takeovers, wait_for_artifacts
from saga import claims, wakeup
from saga.cancelling import cancel_and_wait
from saga.database import is_database_error
from saga.lease import lease, release_strays
from saga.prefect.batch import GRACE_SECONDS, BatchRunner
from saga.prefect.limits import slots
from saga.prefect.termination import cancelled_by_sigterm
from saga.wakeup import Listener
from shop.monitoring import outcome_counter
from shop.monitoring.sampler import sampling
from shop.notifications import outbox
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from shop.payments.limit import PAYMENT_GATEWAY
from shop.runtime.garbage import reduced_garbage_collection
from shop.settings import settings
from tasks.deliver_outbox import deliver_outbox

_MAIL_DELAY_SECONDS = 10
"""While orders are processed, sends only mail that has been due for this long."""
_IDLE_SECONDS = 0.25
"""Seconds without any order after which the consumer counts as idle."""
_OUTBOX_POLL_SECONDS = 5
"""Poll interval for retries of the outbox, while the consumer is idle."""
_MAILS_AT_ONCE = 100
"""Limits the messages of one `deliver_outbox` run."""
Seconds = Annotated[
    float | None,
    Field(
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long to keep claiming orders, in seconds; 0: until none is waiting. Default: CONSUMER_SECONDS",
    ),
]
BatchSize = Annotated[int | None, Field(ge=1, le=5_000, description="Limits how many orders share each task run. Default: BATCH_SIZE")]


def _run_name() -> str:
    return f"pending orders from {datetime.now(UTC):%H:%M:%S}"


@flow(name="process-pending-orders", flow_run_name=_run_name, persist_result=False)
async def process_pending_orders(consumer_seconds: Seconds = None, batch_size: BatchSize = None) -> dict[str, int]:
    """Takes waiting orders, and those whose worker died, to their outcomes; up to `batch_size` share each
    task run.

    Keeps consuming for a while, so that new orders find a running consumer, and is notified when they arrive.
    Any number of these runs may run, on any number of workers.
    """
    seconds = settings().consumer_seconds if consumer_seconds is None else consumer_seconds
    consumer = _Consumer(batch_size or settings().batch_size)
    with reduced_garbage_collection(), sampling("consumer", flow_run_id=str(flow_run.id)), outcome_counter.counting() as counts:
        progress = Progress(counts, lambda: consumer.claimed)
        async with (
            cancelled_by_sigterm(),
            wakeup.listening(wakeup.WAITING, consuming=True) as listener,
            slots(PAYMENT_GATEWAY, occupy=settings().payment_concurrency),
            lease(ORDERS) as lease_id,
        ):
            mailing = asyncio.create_task(consumer.send_mail())
            progress.begin()
            try:
                await consumer.consume(lease_id, listener, seconds)
                await consumer.runner.finish_up()
                consumer.runner.check()
                consumer.end()
                await mailing
                await wait_for_artifacts()
                await attention_artifact.settle()
                await progress.end()
            except GeneratorExit:
                raise
            except BaseException:  # the process has to end, or the run is suspended: held orders are finished or released
                await consumer.runner.finish_up(GRACE_SECONDS)
                raise
            finally:
                await cancel_and_wait([mailing])
                await progress.stop()
    return {"orders": consumer.claimed, "batches": consumer.started}


class _Consumer:
    """Claims orders and runs them in batches, and delivers the outbox beside that."""

    def __init__(self, batch_size: int) -> None:
        self.runner = BatchRunner(ORDER_SAGA)
        self.batch_size = batch_size
        self.claimed = self.started = 0
        self._unclear = False
        """Whether a claim's answer was lost: the claim may have been committed."""
        self._on_trial = False
        """Whether the claimed orders may have killed their workers: nothing else runs until they have ended.
        """
        self._survived = 0
        self._mailing = asyncio.Lock()
        self.all_claimed = asyncio.Event()
        """Set when no more orders are claimed: the messages that are due now are the last."""

    @property
    def over(self) -> bool:
        """Whether no more orders are claimed."""
        return self.all_claimed.is_set()

    def end(self) -> None:
        """Lets `send_mail` end."""
        self.all_claimed.set()
        self.runner.ended.set()

    async def consume(self, lease_id: UUID, listener: Listener, seconds: float) -> None:
        """Claims and starts orders until the time is over or, if it is 0, until no order is waiting."""
        log = get_run_logger()
        until = time.monotonic() + seconds
        while True:
            self.runner.check()
            if self._on_trial and self.runner.idle:
                self._on_trial, self._survived = False, self._survived + 1
            if not self._on_trial and not self._is_full():
                claimed = await self._claim(lease_id)
                if claimed:
                    self.runner.start(claimed)
                    self.claimed, self.started = self.claimed + len(claimed), self.started + 1
                    log.info("claimed %s", f"order {claimed[0].id}" if len(claimed) == 1 else f"{len(claimed)} orders")
                    report_takeovers(claimed)
                    continue
                if seconds == 0 and self.runner.idle:
                    return
            if seconds > 0 and time.monotonic() > until:
                return
            await self._wait(listener)

    async def send_mail(self) -> None:
        """Sends the messages of the outbox. Orders have priority: while there are any, sends only messages
        that have been due for some time."""
        while True:
            over, is_quiet = self.over, self.runner.idle_for(_IDLE_SECONDS)
            if await self._send_some_mail(waited=0 if over or is_quiet else _MAIL_DELAY_SECONDS):
                continue
            if over:
                return
            with suppress(TimeoutError):
                # not wait_for, which before Python 3.12 can swallow a cancellation
                async with asyncio.timeout(_OUTBOX_POLL_SECONDS if is_quiet else _IDLE_SECONDS):
                    await (self.runner.ended.wait() if is_quiet else self.all_claimed.wait())
            self.runner.ended.clear()

    async def _send_some_mail(self, *, waited: float) -> bool:
        """Sends messages that have been due for at least this many seconds. Returns whether any was sent."""
        try:
            async with self._mailing:
                if self._on_trial and not self.runner.idle:
                    return False
                return await outbox.is_due(waited=waited) and (await deliver_outbox(_MAILS_AT_ONCE))["sent"] > 0
        except Exception as error:
            if not is_database_error(error):
                raise
            return False

    def _is_full(self) -> bool:
        """Returns whether to claim nothing now: enough batches are running, or too many detached orders (the
        gateway may be down)."""
        return len(self.runner.batches) >= settings().batches_under_way or len(self.runner.detached) > self.batch_size

    async def _claim(self, lease_id: UUID) -> list[OrderInstance]:
        claim = partial(claims.claim_batch, ORDERS, lease_id, most=self.batch_size, flow_run_id=str(flow_run.id), known=ORDER_SAGA.names)
        try:
            await self._release_strays(lease_id)
            if self.runner.idle and not self._mailing.locked():
                async with self._mailing:
                    claimed = await claim(idle=True, survived=self._survived)
                    self._on_trial = any(order.on_trial for order in claimed)
            else:
                claimed = await claim(idle=False)
        except Exception as error:
            if not is_database_error(error):
                raise
            self._unclear = True
            get_run_logger().warning("the database is unavailable (%s); retrying", type(error).__name__)
            return []
        return claimed

    async def _release_strays(self, lease_id: UUID) -> None:
        if not self._unclear and not self.runner.unreleased:
            return
        all_released = await release_strays(ORDERS, lease_id, self.runner.instances)
        self._unclear = self.runner.unreleased = not all_released

    async def _wait(self, listener: Listener) -> None:
        """Waits for new orders, for the end of a batch, or for the poll interval: some lease may have
        expired."""
        self.runner.changed.clear()
        waits = {asyncio.create_task(listener.wait(settings().poll_seconds)), asyncio.create_task(self.runner.changed.wait())}
        try:
            await asyncio.wait(waits, timeout=settings().poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waits)
