"""Sends the sample orders through a running system, and shows what became of them and of the money."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from deployments.cli.books import ask_gateway, books_table
from deployments.cli.outcome_table import STYLES, outcome_table
from deployments.samples import Expected, Sample, all_outside, at_stripe, load_samples
from saga.clock import database_time_sync
from shop.inventory.catalogue import load_sample_catalogue
from shop.orders import report
from shop.orders.tries import RETRYABLE
from shop.payments.errors import PaymentError
from shop.reconciliation.books import Books, Totals, read_books
from shop.settings import settings
from shop.values.money import show

if TYPE_CHECKING:
    from deployments.local.display import Display
    from shop.orders.outcomes import OrderOutcome

_ORDER_TIMEOUT = 180.0
_REST_SECONDS = 15.0
_AT_ONCE = 3  # each run is a process that needs seconds of a core to load


@dataclass(slots=True)
class Ended:
    """An order of a sample, and its end."""

    place: int
    order: dict[str, Any]
    expected: Expected
    outcome: OrderOutcome | None = None
    problem: str = "no outcome"
    """Why there is no outcome."""
    known: bool = False
    """Whether it had ended before it was submitted now: nothing happened, and this is the earlier outcome."""

    @property
    def order_id(self) -> str:
        return str(self.order["id"])

    @property
    def differences(self) -> list[str]:
        """Returns what is not as expected; empty if all is."""
        return [self.problem] if self.outcome is None else self.expected.differences(self.outcome)


def suitable_samples() -> list[Sample]:
    """Returns the sample orders for these settings. None for a live key of the gateway or the carrier: they
    are test data."""
    s = settings()
    by_easypost = s.shipping.carrier == "easypost"
    if by_easypost and _secret(s.easypost.api_key).startswith("EZAK"):
        return []
    samples = all_outside(load_samples()) if s.inventory.service_url and by_easypost else load_samples()
    if s.payments.gateway != "stripe":
        return samples
    return [] if "_live_" in _secret(s.stripe.api_key) else at_stripe(samples)


def _secret(value: Any) -> str:
    return value.get_secret_value() if value else ""


def send_samples(progress: Display) -> list[Ended]:
    """Puts the samples' products in stock, submits each order as a run of its own, and waits for all
    outcomes. If this is interrupted, the threads that wait for outcomes end with the process."""
    samples, places = suitable_samples(), itertools.count()
    if samples:  # a shop with real connections gets no invented products
        load_sample_catalogue(settings().database_url)
    sent = [
        [Ended(next(places), *pair) for pair in zip(sample.orders, sample.expect, strict=True)]
        for sample in samples
    ]
    every = [each for orders in sent for each in orders]
    names = [each.order_id for each in every]
    progress.orders(names)
    slots = threading.Semaphore(_AT_ONCE)
    threads = [
        threading.Thread(target=_run_sample, args=(*pair, slots, progress), daemon=True)
        for pair in zip(samples, sent, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        progress.steps(_steps(names))
    return every


def _run_sample(sample: Sample, orders: list[Ended], slots: threading.Semaphore, progress: Display) -> None:
    with slots:
        threads = [
            threading.Thread(target=_send, args=(each, sample.retry, progress), daemon=True)
            for each in orders
        ]
        for thread in threads:
            thread.start()
            if not sample.concurrent:
                thread.join()
        for thread in threads:
            thread.join()
    expected = sample.assign([each.outcome for each in orders])
    for each, wanted in zip(orders, expected, strict=True):
        each.expected = wanted


def _send(each: Ended, retry: dict[str, str] | None, progress: Display) -> None:
    from deployments.trigger import retry_order, run_order

    progress.order(each.place, "under way")
    try:
        began = database_time_sync()
        outcome = run_order(each.order, own_run=True, timeout=_ORDER_TIMEOUT)
        if retry is not None and outcome.outcome in RETRYABLE:
            retry_order(outcome.order_id, **retry, reason="a sample order")
            outcome = run_order(each.order, own_run=True, timeout=_ORDER_TIMEOUT)
        each.outcome = outcome
        each.known = outcome.finished_at is not None and outcome.finished_at < began
    except Exception as error:  # noqa: BLE001  (one failed submission must not hide the outcomes of the others)
        each.problem = str(error) or type(error).__name__
    progress.order(each.place, str((each.outcome and each.outcome.outcome) or "no outcome"))


def _steps(names: list[str]) -> dict[str, str]:
    """Returns the current step of each order."""
    with suppress(Exception):  # for display only
        return {
            order_id: order.timings[-1].step
            for order_id, order in report.read(names).items()
            if order.timings
        }
    return {}


def _books_at_rest(*, ask_stripe: bool) -> Books:
    """Reads the books until open orders have ended, for a limited time. `ask_stripe` false: a Stripe account
    is not asked, which may have the payments of years."""
    end = time.monotonic() + _REST_SECONDS
    while True:
        asks = ask_stripe or settings().payments.gateway != "stripe"
        books = read_books(settings().database_url, _gateway_totals() if asks else None)
        if books.balanced or time.monotonic() > end:
            return books
        time.sleep(0.5)


def demonstration(ended: Sequence[Ended], *, ask_stripe: bool) -> tuple[list[RenderableType], Books]:
    """Returns what to show of the samples' ends and of the money, and the books, as `_books_at_rest` reads
    them."""
    books = _books_at_rest(ask_stripe=ask_stripe)
    orders = outcome_table("Sample orders", [(each.order_id, each.outcome) for each in ended])
    return [orders, _notes(ended), books_table(books)], books


def _gateway_totals() -> Totals | None:
    """Returns what the gateway has charged and refunded; None if it does not answer."""
    with suppress(PaymentError):
        return ask_gateway()
    return None


def as_expected(ended: Sequence[Ended], books: Books) -> bool:
    """Whether all samples ended as expected, and the books balance with the gateway's."""
    return books.balanced and books.compared and not any(each.differences for each in ended)


def _notes(ended: Sequence[Ended]) -> Text:
    """Returns notes that the table has no room for."""
    text = Text()
    for each in ended:
        if each.outcome and each.outcome.amount_at_risk:
            amount = show(each.outcome.amount_at_risk, each.outcome.currency)
            text.append(
                f"{each.order_id}: {amount} at risk. The refund was refused, so a person must act.\n",
                STYLES["needs_attention"],
            )
    known = list(dict.fromkeys(each.order_id for each in ended if each.known))
    if known:
        which = "All of these orders" if all(each.known for each in ended) else ", ".join(known)
        text.append(f"{which} {'was' if len(known) == 1 else 'were'} already known: ", "dim")
        text.append("the first outcome is shown, and nothing was repeated.\n", "dim")
    for each in ended:
        for difference in each.differences:
            text.append(f"{each.order_id} differs from the expected outcome: {difference}\n", "bold red")
    return text
