"""Submits the sample orders as a user would, some concurrently, and compares their outcomes with the
expected ones."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deployments.samples import Expected, Sample
from saga.clock import database_time_sync
from shop.orders.outcomes import OrderOutcome
from shop.orders.tries import RETRYABLE

RunOne = Callable[[dict[str, Any]], OrderOutcome]
"""Submits one order and waits for its outcome."""
Retry = Callable[[str, dict[str, str]], object]
"""Tries the order again, with another means of payment."""
Report = Callable[[int, str], None]
"""Called with an order's place in the list of all and its state, in the thread that called `run_samples`."""

_AT_ONCE = 3  # each run is a process that needs seconds of a core to load


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one order."""

    order_id: str
    title: str
    expected: Expected
    outcome: OrderOutcome | None
    problem: str | None
    """Why there is no outcome."""
    known: bool
    """Whether it had ended before it was submitted now: nothing happened, and this is the earlier outcome."""
    seconds: float

    @property
    def differences(self) -> list[str]:
        """Returns what is not as expected; empty if all is."""
        if self.outcome is None:
            return [self.problem or "no outcome"]
        return self.expected.differences(self.outcome)


@dataclass(slots=True)
class _Sent:
    """One order in progress."""

    place: int
    order: dict[str, Any]
    outcome: OrderOutcome | None = None
    problem: str | None = None
    began: datetime | None = None
    seconds: float = 0


def run_samples(
    samples: Sequence[Sample],
    run_one: RunOne,
    retry: Retry,
    report: Report,
    every: Callable[[], None] = lambda: None,
) -> list[Ended]:
    """Returns the ends of all orders in the sequence of the samples. Calls `every` several times a second
    meanwhile.

    If this is interrupted, the threads that wait for outcomes end with the process.
    """
    places = iter(range(sum(len(sample.orders) for sample in samples)))
    sent = [[_Sent(next(places), order) for order in sample.orders] for sample in samples]
    events: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
    slots = threading.Semaphore(_AT_ONCE)
    for sample, orders in zip(samples, sent, strict=True):
        threading.Thread(
            target=_run_sample,
            args=(sample, orders, _run(sample, run_one, retry), events, slots),
            daemon=True,
        ).start()
    left = len(samples)
    while left:
        try:
            event = events.get(timeout=0.2)
        except queue.Empty:
            every()
            continue
        if event is None:
            left -= 1
        else:
            report(*event)
    return [ended for sample, orders in zip(samples, sent, strict=True) for ended in _ended(sample, orders)]


def _run(sample: Sample, run_one: RunOne, retry: Retry) -> RunOne:
    """Returns what takes an order of the sample to its end."""
    if (means := sample.retry) is None:
        return run_one

    def run_twice(order: dict[str, Any]) -> OrderOutcome:
        outcome = run_one(order)
        if outcome.outcome not in RETRYABLE:
            return outcome
        retry(outcome.order_id, means)
        return run_one(order)

    return run_twice


def _run_sample(
    sample: Sample,
    orders: list[_Sent],
    run_one: RunOne,
    events: queue.SimpleQueue[tuple[int, str] | None],
    slots: threading.Semaphore,
) -> None:
    try:
        with slots:
            if sample.concurrent:
                threads = [
                    threading.Thread(target=_send, args=(each, run_one, events), daemon=True)
                    for each in orders
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            else:
                for each in orders:
                    _send(each, run_one, events)
    finally:
        events.put(None)


def _send(each: _Sent, run_one: RunOne, events: queue.SimpleQueue[tuple[int, str] | None]) -> None:
    events.put((each.place, "under way"))
    begin = time.monotonic()
    try:
        each.began = database_time_sync()
        each.outcome = run_one(each.order)
    except Exception as error:  # noqa: BLE001  (one failed submission must not hide the outcomes of the others)
        each.problem = str(error) or type(error).__name__
    each.seconds = time.monotonic() - begin
    events.put(
        (each.place, str(each.outcome.outcome) if each.outcome and each.outcome.outcome else "no outcome")
    )


def _ended(sample: Sample, orders: list[_Sent]) -> list[Ended]:
    expected = sample.assign([each.outcome for each in orders])
    return [
        Ended(
            order_id=str(each.order["id"]),
            title=sample.title,
            expected=wanted,
            outcome=each.outcome,
            problem=each.problem,
            known=_was_known(each),
            seconds=each.seconds,
        )
        for each, wanted in zip(orders, expected, strict=True)
    ]


def _was_known(each: _Sent) -> bool:
    finished = each.outcome.finished_at if each.outcome else None
    return finished is not None and each.began is not None and finished < each.began
