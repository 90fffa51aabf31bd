"""Shows orders and their outcomes as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from rich.text import Text

from deployments import terminal
from deployments.terminal import FittedTable
from shop.orders.outcomes import OrderOutcome
from shop.values.money import show

STYLES: Mapping[str, str] = {
    "completed": "green",
    "rejected": "yellow",
    "out_of_stock": "yellow",
    "compensated": "cyan",
    "needs_attention": "bold red",
    "no outcome": "bold red",
}
"""Colour per outcome."""
DONE = frozenset({"success"})
"""Statuses of a compensation that undid something."""


def effective_compensations(outcome: OrderOutcome) -> list[str]:
    """Returns the compensations that undid something, in the order in which they ran."""
    return [undone.compensation for undone in outcome.undone if undone.status in DONE]


def outcome_table(title: str, orders: Iterable[tuple[str, OrderOutcome | None]]) -> FittedTable:
    """Makes one line per order: its id and, if there is one, its outcome."""
    columns = ("order", "outcome", "failing step", "undone", ">charged", ">refunded", ">time")
    table = terminal.table(title, *columns, optional=("undone", "time", "refunded", "charged"))
    for order_id, outcome in orders:
        name = str(outcome.outcome) if outcome and outcome.outcome else "no outcome"
        row: list[Text | str] = [Text(order_id), Text(name, STYLES.get(name, ""))]
        if outcome is not None:
            charged, refunded = (
                _money(amount, outcome.currency)
                for amount in (outcome.amount_charged, outcome.amount_refunded)
            )
            took = f"{outcome.seconds:.2f} s" if outcome.seconds is not None else ""
            row += [outcome.failing_step or "", _undone(outcome), charged, refunded, took]
        table.add_row(*row)
    return table


def _undone(outcome: OrderOutcome) -> Text:
    text = Text()
    for undone in outcome.undone:
        if undone.status in DONE:
            text.append(f"{undone.compensation}\n")
        elif undone.status == "failed":
            text.append(f"{undone.compensation} failed\n", STYLES["needs_attention"])
    text.rstrip()
    return text


def _money(amount: Decimal, currency: str) -> str:
    return show(amount, currency) if amount else ""
