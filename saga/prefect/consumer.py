"""The consumer of the batch lane: keeps claiming instances and runs them in batches, with side work between
them, such as the delivery of messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from prefect.logging import get_run_logger

from saga import claims
from saga.asyncio_tasks import cancel_and_wait
from saga.batch_size import BatchSize
from saga.configuration import config
from saga.database import is_database_error
from saga.definition import Saga
from saga.instance import SagaInstance
from saga.lease import release_strays
from saga.prefect.batch import GRACE_SECONDS, BatchRunner
from saga.prefect.instance_run import run_id
from saga.store import SagaStore
from saga.wakeup import Listener

P = TypeVar("P")


class Consumer(Generic[P]):
    """Claims instances under a lease and takes them to their outcomes."""

    def __init__(
        self,
        saga: Saga,
        store: SagaStore[P],
        *,
        batch_size: int,
        on_claimed: Callable[[Sequence[SagaInstance[P]]], None],
    ) -> None:
        """`batch_size`: limits how many instances share a task run. `on_claimed`: is called with each batch's
        instances when it has started."""
        self.runner = BatchRunner(saga)
        self.claimed = self.started = 0
        """How many instances were claimed, and how many batches started."""
        self.all_claimed = asyncio.Event()
        """Set when nothing more is claimed and everything claimed has ended: side work ends soon."""
        self._saga, self._store = saga, store
        self._batch_size, self._on_claimed = BatchSize(batch_size), on_claimed
        self._most_detached = batch_size
        self._leaving = False
        self._unclear = False
        """Whether a claim's answer was lost: the claim may have been committed."""
        self._on_trial = False
        """Whether the claimed instances may have killed their workers: nothing else runs until they have
        ended."""
        self._survived = 0
        self._side_work = asyncio.Lock()

    async def run(
        self,
        lease_id: UUID,
        listener: Listener,
        seconds: float,
        side_work: Callable[[Consumer[P]], Coroutine[Any, Any, None]],
    ) -> None:
        """Claims instances until the time is over or, if it is 0, until none is waiting, and waits until they
        have ended.

        `side_work` runs concurrently. It holds `exclusive` whenever it works, and ends once `all_claimed` is
        set. If the run is stopped, the instances are finished within the grace period, or released with the
        lease.
        """
        working = asyncio.create_task(side_work(self), name="side-work")
        try:
            await self._consume(lease_id, listener, seconds)
            await self.runner.finish_up()
            self.runner.check()
            self.all_claimed.set()
            self.runner.ended.set()
            await working
        except GeneratorExit:
            raise
        except BaseException:
            await self.runner.finish_up(GRACE_SECONDS)
            raise
        finally:
            await cancel_and_wait([working])

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[bool]:
        """Prevents claims on trial while its body does side work. Yields False if the body must not work,
        because instances are on trial now."""
        async with self._side_work:
            yield self.runner.idle or not self._on_trial

    async def _consume(self, lease_id: UUID, listener: Listener, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._leaving:
            self.runner.check()
            if self._on_trial and self.runner.idle:
                self._on_trial, self._survived = False, self._survived + 1
            if not self._on_trial and not self.is_full:
                most = self._batch_size.size
                claimed = await self._claim(lease_id, most)
                if claimed:
                    self._start(claimed)
                    if len(claimed) == most:  # more may wait; later ones notify
                        continue
                elif claimed is not None and seconds == 0 and self.runner.idle:
                    return
            if seconds > 0 and time.monotonic() > until:
                return
            await self._wait(listener)

    def leave(self) -> None:
        """Ends the run as if its time were over: it claims nothing more."""
        self._leaving = True
        self.runner.changed.set()

    @property
    def is_full(self) -> bool:
        """Whether nothing is claimed now: enough batches are running, or too many detached instances: an
        external system may be down."""
        return (
            len(self.runner.batches) >= config().batches_under_way
            or len(self.runner.detached) > self._most_detached
            or (self._batch_size.is_probing and not self.runner.idle)
        )

    def _start(self, claimed: Sequence[SagaInstance[P]]) -> None:
        began, number = time.monotonic(), len(claimed)
        self._batch_size.claimed(number)
        self.runner.start(claimed).add_done_callback(
            lambda _: self._batch_size.ended(number, time.monotonic() - began)
        )
        self.claimed, self.started = self.claimed + number, self.started + 1
        self._on_claimed(claimed)

    async def _claim(self, lease_id: UUID, most: int) -> list[SagaInstance[P]] | None:
        """Claims instances. None: the database is unavailable, so that it is unknown whether any wait."""
        claim = partial(
            claims.claim_batch,
            self._store,
            lease_id,
            most=most,
            flow_run_id=run_id(),
            known=self._saga.names,
        )
        try:
            await self._release_strays(lease_id)
            if self.runner.idle and not self._side_work.locked():
                async with self._side_work:
                    claimed = await claim(idle=True, survived=self._survived)
                    self._on_trial = any(instance.on_trial for instance in claimed)
            else:
                claimed = await claim(idle=False)
        except Exception as error:
            if not is_database_error(error):
                raise
            self._unclear = True
            get_run_logger().warning("the database is unavailable (%s); retrying", type(error).__name__)
            return None
        return claimed

    async def _release_strays(self, lease_id: UUID) -> None:
        if not self._unclear and not self.runner.unreleased:
            return
        all_released = await release_strays(self._store, lease_id, self.runner.instances)
        self._unclear = self.runner.unreleased = not all_released

    async def _wait(self, listener: Listener) -> None:
        """Waits for new instances, for the end of a batch, or for the poll interval: some lease may have
        expired."""
        self.runner.changed.clear()
        waits = {
            asyncio.create_task(listener.wait(config().poll_seconds)),
            asyncio.create_task(self.runner.changed.wait()),
        }
        try:
            await asyncio.wait(waits, timeout=config().poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waits)
