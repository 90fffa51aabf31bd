"""`order-saga list`: lists and searches orders."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from rich.table import Table
from rich.text import Text

from deployments import terminal
from deployments.cli.outcome_table import STYLES
from saga.clock import database_time_sync
from shop.orders.outcomes import Outcome
from shop.orders.page.formatting import duration
from shop.orders.search import ListedOrder, Status, Wanted, find_all
from shop.runtime.sync import run_sync
from shop.runtime.times import in_shop, shown
from shop.settings import settings
from shop.values.money import show

_MOST = 100_000


class _BadOption(Exception):
    """The value of an option cannot be used."""


def list_orders(
    *,
    status: Status | None = None,
    outcome: Outcome | None = None,
    customer: str | None = None,
    email: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50,
    json: bool = False,
) -> int:
    """List and search orders, the newest first. All filters have to match.

    The list has no customer data. Orders whose customer's data is erased are found by no customer or e-mail
    address.

    Exit codes: 0; 2, an option is invalid, or the database does not answer.

    Args:
        status: Where they stand: received, under_way, shipped, an outcome, or open (without an outcome).
        outcome: The outcome.
        customer: The customer's id, exactly.
        email: The customer's e-mail address, in any case.
        since: Submitted at this time or later: a date, a date and time (in SHOP_TIMEZONE, unless it has its
            own zone), or a period until now such as 24h.
        until: Submitted before this time.
        limit: How many orders at most.
        json: Print JSON, one order per line.
    """
    settings()
    try:
        if not 1 <= limit <= _MOST:
            raise _BadOption(f"--limit: from 1 to {_MOST:,}")  # noqa: TRY301
        wanted = Wanted(
            status=status,
            outcome=outcome,
            customer=customer,
            email=email.strip() if email else None,
            since=_time("--since", since),
            until=_time("--until", until),
        )
    except _BadOption as error:
        return terminal.refused(str(error))
    found, more = run_sync(lambda: find_all(wanted, most=limit))
    if json:
        for order in found:
            terminal.write_json(order.model_dump_json())
    else:
        console = terminal.console(width=150)
        console.print(_table(found) if found else "No order matches.")
        if more:
            console.print(f"There are more: these are the newest {len(found):,} (--limit).")
    return 0


def _time(option: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    if (ago := _period(given)) is not None:
        return database_time_sync() - ago
    try:
        if len(given) <= len("2026-01-31"):
            return in_shop(datetime.combine(date.fromisoformat(given), time()))
        at = datetime.fromisoformat(given)
    except ValueError:
        raise _BadOption(
            f"{option}: {given!r} is no time: give 2026-01-31, 2026-01-31T12:00, or a period such as 24h"
        ) from None
    return in_shop(at)


def _period(given: str) -> timedelta | None:
    units = {"m": "minutes", "h": "hours", "d": "days"}
    number, unit = given[:-1], given[-1:]
    if not number.isdecimal() or unit not in units or len(number) > 6:
        return None
    return timedelta(**{units[unit]: int(number)})


def _table(orders: Sequence[ListedOrder]) -> Table:
    columns = (
        "order",
        "status",
        "failing step",
        ">total",
        ">charged",
        ">refunded",
        "submitted",
        "time",
        "tracking",
    )
    table = terminal.table(None, *columns)
    for order in orders:
        total = show(order.total_amount, order.currency) if order.total_amount is not None else ""
        money = (show(a, order.currency) if a else "" for a in (order.amount_charged, order.amount_refunded))
        took = duration((order.finished_at - order.submitted_at).total_seconds()) if order.finished_at else ""
        table.add_row(
            Text(order.order_id),
            Text(order.status, STYLES.get(order.status, "")),
            order.failing_step or "",
            total,
            *money,
            shown(order.submitted_at),
            took,
            Text(order.tracking_number or ""),
        )
    return table
