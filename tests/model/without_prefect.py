"""The flows' own functions without Prefect around them, and the shop's own code on simulated connections.

What is replaced: Prefect's task engine (by a loop with the same retries), its loggers, limits and artifacts;
LISTEN/NOTIFY (everybody looks for himself);
sending mails (the outbox's rows are what the model is about). All else is the real code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

from prefect.logging import disable_run_logger

import flows.attention_artifact
import flows.cancel_order
import flows.housekeeping
import flows.jobs
import flows.order_run
import flows.process_pending_orders
import flows.progress
import saga.database
import saga.prefect.batch
import saga.prefect.consumer
import saga.prefect.instance_run
import saga.prefect.steps
import saga.prefect.takeover
import saga.wakeup
import shop.notifications.outbox
import tasks.background
from flows.jobs import Job
from saga.database import is_database_error
from saga.errors import StepError
from saga.execution import StepExecution
from saga.instance import SagaInstance
from saga.wakeup import Listener
from tests.model.worker import current

_FIRST_PAUSE = 0.5
_TERMINATED = (flows.order_run, flows.process_pending_orders, saga.prefect.batch, saga.prefect.instance_run)
"""They handle signals, of which a process has one handler, and not one for each worker."""


def _with_retries(made: Any, retries: int) -> Callable[[StepExecution], Awaitable[None]]:
    """The task's own function, tried again as Prefect would."""

    async def run(work: StepExecution) -> None:
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
    return (
        error.retryable and error.retry_after is None
        if isinstance(error, StepError)
        else is_database_error(error)
    )


@asynccontextmanager
async def _nothing(*_: Any, **__: Any) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _deaf(*_: Any, **__: Any) -> AsyncIterator[Listener]:
    yield Listener()


async def _do_nothing(*_: Any, **__: Any) -> None:
    pass


async def _no_consumer() -> bool:
    return False


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
    """While it lasts, the flows' functions (`flow.fn`) can be run in any event loop,
    without a Prefect server."""
    reopen = tasks.background.reopen_due_orders.fn
    jobs = {
        "release_expired_reservations": tasks.background.release_expired_reservations.fn,
        "retry_compensations": flows.jobs.retry_compensations,
    }
    with ExitStack() as stack:
        for each in (
            _only_errors(),
            disable_run_logger(),
            patch.object(saga.prefect.steps, "_with_retries", _with_retries),
            patch.object(flows.process_pending_orders, "reduced_garbage_collection", nullcontext),
            patch.object(flows.jobs, "reopen_due_orders", reopen),
            patch.object(flows.housekeeping, "_consumer_started", _no_consumer),
            patch.object(flows.jobs, "JOBS", tuple(Job(name, run) for name, run in jobs.items())),
            patch.object(flows.attention_artifact, "changed", lambda: None),
            patch.object(flows.attention_artifact, "show_review_queue", _do_nothing),
            patch.object(flows.attention_artifact, "show_undelivered", _do_nothing),
            patch.multiple(flows.cancel_order, _show=_do_nothing, started_by=_do_nothing),
            patch.multiple(flows.order_run, show_order=_do_nothing, run_id=lambda: repr(current())),
            *(
                patch.object(each, "run_id", lambda: repr(current()))
                for each in (saga.prefect.instance_run, saga.prefect.consumer)
            ),
            *(patch.object(each, "cancelled_by_sigterm", _nothing) for each in _TERMINATED),
            patch.object(flows.progress, "acreate_progress_artifact", _do_nothing),
            patch.object(flows.progress, "acreate_markdown_artifact", _do_nothing),
            patch.object(saga.prefect.takeover, "_create_artifacts", _do_nothing),
            patch.object(saga.wakeup, "listening", _deaf),
            patch.object(shop.notifications.outbox, "is_due", _no_mail),
            patch.object(saga.database, "_limit_on_the_server", lambda *_: None),
            patch.object(
                saga.prefect.batch,
                "time",
                SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()),
            ),
            patch.object(
                SagaInstance, "__hash__", lambda order: crc32(order.id.encode()) + order.fence
            ),  # sets have the same sequence again
        ):
            stack.enter_context(each)
        yield


class Surprises(logging.Handler):
    """Errors that the code itself says it did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unforeseen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.unforeseen.append(f"{record.getMessage()}: {record.exc_info[1]!r}")
