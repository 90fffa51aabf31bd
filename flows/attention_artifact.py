"""Shows what needs a person in the Prefect UI: the manual review queue (the artifact
`orders-that-need-attention`, updated when the queue changes), and undelivered mails and CRM messages
(`messages-not-delivered`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from prefect.artifacts import Artifact, acreate_table_artifact
from prefect.client.schemas.objects import Artifact as StoredArtifact
from prefect.logging import get_logger

from saga.prefect.takeover import wait_for_artifacts
from shop.notifications.outbox import Undelivered, read_undelivered
from shop.payments import disputes
from shop.payments.disputes import OpenDispute
from shop.review.attention import ReviewCase, ReviewQueue, advice, read_queue
from shop.runtime.times import shown
from shop.values.money import show

KEY = "orders-that-need-attention"
UNDELIVERED_KEY = "messages-not-delivered"
_PAUSE_SECONDS = 5
"""Pause between two updates while the queue keeps changing."""
_LIMIT_SECONDS = 20
"""Limits one update."""
_SHOWN = 200
"""Limits how many orders the artifact shows."""

log = get_logger("orders")
_Table = list[dict[str, Any]]


class _ReviewQueueArtifact:
    """Updates the artifact in a background task of one event loop, at a limited rate however many orders
    change the queue."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._showing: asyncio.Task[None] | None = None

    def changed(self) -> None:
        self._changed.set()
        if self._showing is None or self._showing.done():
            self._hurry.clear()
            self._showing = asyncio.create_task(self._show(), name="show-review-queue")

    async def settle(self) -> None:
        self._hurry.set()
        if self._showing is not None:
            await asyncio.gather(self._showing, return_exceptions=True)

    async def _show(self) -> None:
        while self._changed.is_set():
            self._changed.clear()
            await show_review_queue()
            if self._changed.is_set() or not self._hurry.is_set():
                await _wait(self._hurry, _PAUSE_SECONDS)


_artifacts: WeakKeyDictionary[asyncio.AbstractEventLoop, _ReviewQueueArtifact] = WeakKeyDictionary()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def changed() -> None:
    """Schedules an update of the artifact, because the queue may have changed. Never raises, never waits."""
    _artifacts.setdefault(asyncio.get_running_loop(), _ReviewQueueArtifact()).changed()


async def settle() -> None:
    """Waits until the artifact shows all changes so far, before a flow run ends. Never raises."""
    if (artifact := _artifacts.get(asyncio.get_running_loop())) is not None:
        await artifact.settle()


@asynccontextmanager
async def artifacts_shown() -> AsyncIterator[None]:
    """Waits after its body until the background artifacts (takeovers, manual review) are in the UI."""
    yield
    await wait_for_artifacts()
    await settle()


async def show_review_queue() -> bool:
    """Creates the artifact, unless the latest one is the same. Returns False if that fails: the schedule
    retries. Never raises."""
    return await _show(KEY, "manual review", _review_queue, if_empty=True)


async def show_undelivered() -> bool:
    """Creates the artifact `messages-not-delivered`, unless the latest one is the same, or there is none and
    nothing to report. Returns False if that fails. Never raises."""
    return await _show(UNDELIVERED_KEY, "undelivered messages", _undelivered, if_empty=False)


async def _show(
    key: str, what: str, read: Callable[[], Awaitable[tuple[_Table, str]]], *, if_empty: bool
) -> bool:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            table, description = await read()
            last = await Artifact.aget(key)
            if (last is not None or table or if_empty) and not _is_same(last, table, description):
                await acreate_table_artifact(table=table, key=key, description=description)
    except Exception as error:  # noqa: BLE001  (orders have priority, whatever is wrong with the Prefect server)
        log.warning("updating the %s artifact failed (%s): the schedule retries", what, type(error).__name__)
        return False
    return True


def _is_same(last: StoredArtifact | None, table: _Table, description: str) -> bool:
    if last is None or last.description != description:
        return False
    data = json.loads(last.data) if isinstance(last.data, str) else last.data
    return bool(data == table)


async def _review_queue() -> tuple[_Table, str]:
    queue = await read_queue(_SHOWN)
    return [*map(_row, queue.cases), *map(_disputed, queue.disputes)], _description(queue)


async def _undelivered() -> tuple[_Table, str]:
    left = await read_undelivered()
    refused = sum(message.refused for message in left)
    description = (
        f"{refused} refused permanently, {len(left) - refused} being retried. "
        "The orders are not affected. "
        'From Python: `deployments.review.send_again("ORDER-1001")` once the cause is fixed, '
        "or without an order for all of them."
    )
    return [*map(_message, left)], description if left else "Every message is delivered or in delivery."


def _row(case: ReviewCase) -> dict[str, Any]:
    """Returns the table's row for an order. It has no customer data: only the journal's facts and the
    amounts."""
    return {
        "order": case.order_id,
        "since": shown(case.since),
        "step": case.step,
        "at risk": show(case.amount_at_risk, case.currency),
        "last error": case.last_error,
        "tried again": case.retries,
        "next try": _next_try(case),
        "what to do": advice(case),
    }


def _disputed(dispute: OpenDispute) -> dict[str, Any]:
    return {
        "order": dispute.order_id or f"none of ours: payment {dispute.payment_id}",
        "since": shown(dispute.opened_at),
        "step": "dispute",
        "at risk": show(dispute.amount, dispute.currency),
        "last error": f"the customer's bank disputes the charge: {dispute.reason} ({dispute.status})",
        "tried again": 0,
        "next try": "",
        "what to do": disputes.advice(dispute),
    }


def _next_try(case: ReviewCase) -> str:
    if case.being_retried:
        return "now"
    when = case.next_retry_at
    return shown(when) if when else "on hold: only on request"


def _description(queue: ReviewQueue) -> str:
    parts = []
    if queue.orders:
        amounts = ", ".join(show(amount, currency) for currency, amount in queue.at_risk.items())
        many = f" The oldest {len(queue.cases)} are shown." if queue.orders > len(queue.cases) else ""
        orders = "1 order needs" if queue.orders == 1 else f"{queue.orders} orders need"
        parts.append(
            f"{orders} attention: {amounts} at risk.{many} "
            "Run the deployment resolve-order to resolve or retry one."
        )
    if queue.disputes:
        charges = "1 charge is" if len(queue.disputes) == 1 else f"{len(queue.disputes)} charges are"
        parts.append(f"{charges} disputed: answer in the gateway's dashboard.")
    return " ".join(parts) or "No order needs attention."


def _message(message: Undelivered) -> dict[str, Any]:
    """Returns the table's row. No customer data: the error has codes and names only."""
    return {
        "order": message.order_id,
        "message": message.kind,
        "since": shown(message.since),
        "attempts": message.attempts,
        "error": message.error,
        "next try": shown(message.next_try) if message.next_try else "none: it was refused permanently",
    }
