"""Sends the sample orders through a running system, and shows what became of them and of the money."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import RenderableType
from rich.text import Text

from deployments.cli.books import ask_gateway, books_table
from deployments.cli.outcome_table import STYLES, outcome_table
from deployments.samples import Sample, load_samples
from deployments.samples.outside import all_outside
from deployments.samples.runner import Ended, run_samples
from deployments.samples.stripe import at_stripe
from shop.payments.errors import PaymentError
from shop.settings import settings
from shop.values.money import show

if TYPE_CHECKING:
    from shop.orders.outcomes import OrderOutcome
    from shop.reconciliation.books import Books, Totals

_ORDER_TIMEOUT = 180.0
_REST_SECONDS = 15.0


class Progress(Protocol):
    """Shows the state of each order to people."""

    def orders(self, names: list[str]) -> None: ...

    def order(self, place: int, state: str) -> None: ...

    def steps(self, steps: Mapping[str, str]) -> None: ...


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


def send_samples(progress: Progress) -> list[Ended]:
    """Puts the samples' products in stock, submits each order as a run of its own, and waits for all
    outcomes."""
    from deployments.trigger import retry_order, run_order
    from shop.inventory.catalogue import load_sample_catalogue

    samples = suitable_samples()
    if samples:  # a shop with real connections gets no invented products
        load_sample_catalogue(settings().database_url)
    names = [str(order["id"]) for sample in samples for order in sample.orders]
    progress.orders(names)

    def run_one(order: dict[str, Any]) -> OrderOutcome:
        return run_order(order, own_run=True, timeout=_ORDER_TIMEOUT)

    def retry(order_id: str, means: dict[str, str]) -> None:
        retry_order(order_id, **means, reason="a sample order")

    return run_samples(samples, run_one, retry, progress.order, every=lambda: progress.steps(_steps(names)))


def _steps(names: list[str]) -> dict[str, str]:
    """Returns the current step of each order."""
    from shop.orders.report import read

    with suppress(Exception):  # for display only
        return {order_id: order.timings[-1].step for order_id, order in read(names).items() if order.timings}
    return {}


def _books_at_rest(*, ask_stripe: bool) -> Books:
    """Reads the books until open orders have ended, for a limited time. `ask_stripe` false: a Stripe account
    is not asked, which may have the payments of years."""
    from shop.reconciliation.books import read_books

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
