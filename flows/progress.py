"""Shows the progress of a run with many orders as its artifacts: a progress bar, and a table of outcomes at
the end.

It updates at most once every few seconds, beside the orders. Its errors do not affect orders.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.logging import get_logger

from saga.asyncio_tasks import cancel_and_wait
from shop.monitoring.outcome_counter import OutcomeCounter
from shop.orders.outcomes import Outcome
from shop.orders.page.formatting import duration, markdown_table
from shop.orders.report import count_waiting
from shop.values.money import show

PROGRESS_KEY = "orders-under-way"
OUTCOMES_KEY = "orders-ended"
_PAUSE_SECONDS = 5
_LIMIT_SECONDS = 5
_MOST_WAITING = 20_000
"""Up to this many waiting orders are counted."""

log = get_logger("orders")


class Progress:
    """The progress of one run. `taken` returns how many orders it has taken so far."""

    def __init__(
        self, outcome_counter: OutcomeCounter, taken: Callable[[], int], *, pause: float = _PAUSE_SECONDS
    ) -> None:
        self._outcome_counter, self._taken, self._pause = outcome_counter, taken, pause
        self._began = time.monotonic()
        self._artifact: UUID | None = None
        self._shown = ""
        self._showing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts showing the progress, in a background task. A run that ends soon only shows its result."""
        self._showing = asyncio.create_task(self._show_repeatedly(), name="show-progress")

    async def end(self) -> None:
        """Shows the table of outcomes, if there was any order. Takes a few seconds and never raises."""
        await self.stop()
        if not self._taken():
            return
        await self._guarded(self._show_outcomes())
        if self._artifact is not None:
            await self._guarded(self._show(over=True))

    async def stop(self) -> None:
        """Stops showing the progress, for a run whose process has to end."""
        if self._showing is not None:
            await cancel_and_wait([self._showing])

    async def _show_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            if self._taken():
                await self._guarded(self._show())

    async def _guarded(self, showing: Any) -> None:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                await showing
        except Exception as error:  # noqa: BLE001  (orders have priority, whatever is wrong with the Prefect server)
            log.warning("showing the progress in the UI failed (%s)", type(error).__name__)

    async def _show(self, *, over: bool = False) -> None:
        ended, taken = self._outcome_counter.ended, self._taken()
        waiting = 0 if over else await count_waiting(most=_MOST_WAITING)
        words = f"{ended:,} of {taken:,} orders ended" + (f", {_about(waiting)} waiting" if waiting else "")
        words += "".join(
            f"; {self._outcome_counter.outcomes[outcome]:,} {outcome}"
            for outcome in Outcome
            if self._outcome_counter.outcomes[outcome]
        )
        if words == self._shown:
            return
        done = 100.0 if over else 100.0 * ended / max(1, taken + waiting)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(done, key=PROGRESS_KEY, description=words)
        else:
            await aupdate_progress_artifact(self._artifact, done, description=words)
        self._shown = words

    async def _show_outcomes(self) -> None:
        outcome_counter, seconds = self._outcome_counter, time.monotonic() - self._began
        words = f"{outcome_counter.ended:,} orders ended in {duration(seconds)}"
        await acreate_markdown_artifact(
            outcomes_table(outcome_counter, self._taken(), seconds), key=OUTCOMES_KEY, description=words
        )


def outcomes_table(outcome_counter: OutcomeCounter, taken: int, seconds: float) -> str:
    """Returns the results of a run as Markdown: outcomes, money, failures, and orders of interest."""
    ended = outcome_counter.ended
    left = f", {taken - ended:,} were released" if taken > ended else ""
    parts = [
        f"**{ended:,}** of {taken:,} orders ended in {duration(seconds)}{left}.",
        markdown_table(
            ("outcome", "orders", "share"),
            [
                (o, f"{n:,}", f"{100 * n / ended:.1f} %")
                for o in Outcome
                if (n := outcome_counter.outcomes[o])
            ],
        ),
    ]
    if outcome_counter.money:
        rows = [
            (currency, *(show(amount, currency) for amount in amounts))
            for currency, amounts in sorted(outcome_counter.money.items())
        ]
        parts.append(markdown_table(("currency", "charged", "refunded", "at risk"), rows))
    if outcome_counter.steps:
        parts.append(
            markdown_table(
                ("failed at", "why", "orders"),
                [(step, code, f"{n:,}") for (step, code), n in outcome_counter.steps.most_common(20)],
            )
        )
    if outcome_counter.others:
        others = [(o.order_id, o.outcome, o.failing_step or "", o.code or "") for o in outcome_counter.others]
        failed = sum(outcome_counter.steps.values())
        more = f" The first {len(others)} of {failed:,}:" if failed > len(others) else ""
        parts += [
            (
                "### Orders that did not complete\n\n"
                f"To see one order's history, run the deployment `show-order` with its id.{more}"
            ),
            markdown_table(("order", "outcome", "failed at", "why"), others),
        ]
    return "\n\n".join(parts) + "\n"


def _about(count: int) -> str:
    return f"{count:,}" if count < _MOST_WAITING else f"{count:,} or more"
