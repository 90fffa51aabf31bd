"""The flows' own functions without Prefect around them, and the shop's own code on simulated connections.

What is replaced: Prefect's task engine (by a loop with the same retries), its loggers, limits and artifacts; LISTEN/NOTIFY (everybody looks
for himself); sending mails (the outbox's rows are what the model is about). All else is the real code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

from prefect.logging import disable_run_logger

import flows.board
import flows.cancel_order
import flows.lane
import flows.process_order
import flows.process_pending_orders
import flows.progress
import flows.recover_orders
import flows.reopened
import flows.retry_compensations
import flows.takeover
import shop.database
import shop.notifications.outbox
import shop.signals
import tasks.limits
import tasks.step
from shop.database import is_database_trouble
from shop.errors import OrderError
from shop.signals import Bell
from shop.under_way import OrderUnderWay
from shop.work import Work
from tests.model.worker import current

_FIRST_PAUSE = 0.5


def _with_retries(made: Any, retries: int) -> Callable[[Work], Awaitable[None]]:
    """The task's own function, tried again as Prefect would."""

    async def run(work: Work) -> None:
        for attempt in range(retries + 1):
            try:
                await made.fn(work)
            except Exception as error:
                if attempt == retries or not _worth_retrying(error):
                    raise
                await asyncio.sleep(_FIRST_PAUSE * 2**attempt)
            else:
                return

    return run


def _worth_retrying(error: Exception) -> bool:
    return error.retryable and error.retry_after is None if isinstance(error, OrderError) else is_database_trouble(error)


@asynccontextmanager
async def _nothing(*_: Any, **__: Any) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _deaf(*_: Any, **__: Any) -> AsyncIterator[Bell]:
    yield Bell()


async def _nobody_looks(*_: Any, **__: Any) -> None:
    pass


async def _no_mail(_order_ids: Sequence[str] | None = None, *, waited: float = 0) -> bool:
    return False


@contextmanager
def _only_errors() -> Iterator[None]:
    """Workers that die and lose their connections say much about it, and saying costs as much as doing."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def without_prefect() -> Iterator[None]:
    """While it lasts, the flows' functions (`flow.fn`) can be run in any event loop, without a Prefect server."""
    release = flows.recover_orders.release_expired_reservations.fn
    with (
        _only_errors(),
        disable_run_logger(),
        patch.object(tasks.step, "_with_retries", _with_retries),
        patch.object(tasks.limits, "concurrency", _nothing),
        patch.object(flows.process_pending_orders, "little_garbage_collection", nullcontext),
        patch.object(flows.recover_orders, "release_expired_reservations", release),
        patch.object(flows.board, "changed", lambda: None),
        patch.object(flows.board, "show_desk", _nobody_looks),
        patch.object(flows.retry_compensations, "show_undelivered", _nobody_looks),
        patch.object(flows.cancel_order, "_show", _nobody_looks),
        patch.multiple(flows.process_order, show_order=_nobody_looks, _run_id=lambda: repr(current())),
        patch.object(flows.reopened, "show_order", _nobody_looks),
        patch.object(flows.progress, "acreate_progress_artifact", _nobody_looks),
        patch.object(flows.progress, "acreate_markdown_artifact", _nobody_looks),
        patch.object(flows.takeover, "_leave_artifacts", _nobody_looks),
        patch.object(shop.signals, "listening", _deaf),
        patch.object(shop.notifications.outbox, "is_due", _no_mail),
        patch.object(shop.database, "_limit_on_the_server", lambda *_: None),
        patch.object(flows.lane, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())),
        patch.object(OrderUnderWay, "__hash__", lambda order: crc32(order.id.encode()) + order.fence),  # sets have the same sequence again
    ):
        yield


class Surprises(logging.Handler):
    """Errors that the code itself says it did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.heard.append(f"{record.getMessage()}: {record.exc_info[1]!r}")
