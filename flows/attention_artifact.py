"""Shows the manual review queue in the Prefect UI: the artifact `orders-that-need-attention`, updated when
the queue changes."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from prefect.artifacts import Artifact, acreate_table_artifact
from prefect.logging import get_logger

from shop.payments import disputes
from shop.payments.disputes import OpenDispute
from shop.review.attention import ReviewCase, ReviewQueue, advice, read_queue
from shop.runtime.times import shown
from shop.values.money import show

KEY = "orders-that-need-attention"
_PAUSE_SECONDS = 5
"""Pause between two updates while the queue keeps changing."""
_LIMIT_SECONDS = 20
"""Limits one update."""
_SHOWN = 200
"""Limits how many orders the artifact shows."""

log = get_logger("orders")


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


_boards: WeakKeyDictionary[asyncio.AbstractEventLoop, _ReviewQueueArtifact] = WeakKeyDictionary()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def changed() -> None:
    """Schedules an update of the artifact, because the queue may have changed. Never raises, never waits."""
    _boards.setdefault(asyncio.get_running_loop(), _ReviewQueueArtifact()).changed()


async def settle() -> None:
    """Waits until the artifact shows all changes so far, before a flow run ends. Never raises."""
    if (board := _boards.get(asyncio.get_running_loop())) is not None:
        await board.settle()


async def show_review_queue() -> bool:
    """Creates the artifact, unless the latest one is the same. Returns False if that fails: the schedule
    retries."""
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            queue = await read_queue(_SHOWN)
            table, description = (
                [*map(_row, queue.cases), *map(_disputed, queue.disputes)],
                _description(queue),
            )
            if not await is_shown(KEY, table, description):
                await acreate_table_artifact(table=table, key=KEY, description=description)
    except Exception as error:  # noqa: BLE001  (orders have priority, whatever is wrong with the Prefect server)
        log.warning(
            "updating the manual review artifact failed (%s): the schedule retries", type(error).__name__
        )
        return False
    return True


async def is_shown(key: str, table: list[dict[str, Any]], description: str) -> bool:
    """Returns whether the latest artifact of this key has the same content."""
    last = await Artifact.aget(key)
    if last is None or last.description != description:
        return False
    data = json.loads(last.data) if isinstance(last.data, str) else last.data
    return bool(data == table)


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
    when: datetime | None = case.next_retry_at
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
