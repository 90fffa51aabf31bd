"""`order-saga list`, `show` and `label`: what is known about orders, and their labels."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.text import Text

from deployments import terminal
from deployments.cli.outcome_table import STYLES
from deployments.cli.trouble import explanation
from deployments.terminal import FittedTable
from saga.clock import database_time, database_time_sync
from shop.monitoring.window import Window, parse
from shop.orders.names import file_stems
from shop.orders.outcomes import Outcome
from shop.orders.page.boxes import order_boxes, order_facts
from shop.orders.page.diagram import order_diagram
from shop.orders.page.formatting import duration, for_terminal
from shop.orders.page.story import read_customer_lines_sync, read_story_sync
from shop.orders.search import ListedOrder, Status, Wanted, find_all
from shop.runtime.files import write_atomic
from shop.runtime.sync import run_sync
from shop.runtime.times import in_shop, shop_zone, shown
from shop.settings import settings
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.content import LabelFormat
from shop.shipping.labels.stored import Label, NoLabel, find_label, shipped
from shop.text.sanitize import tame
from shop.values.money import show

_MOST = 100_000
_AS_SHOWN = Parameter(name_transform=lambda name: name.lower().replace("-", "_"))
"""Offers the choices as they are shown, such as `under_way`; accepts `under-way`, too."""


def list_orders(
    *,
    status: Annotated[Status | None, _AS_SHOWN] = None,
    outcome: Annotated[Outcome | None, _AS_SHOWN] = None,
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
        status: Where they stand; open is without an outcome.
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
            raise ValueError(f"--limit: from 1 to {_MOST:,}")  # noqa: TRY301
        wanted = Wanted(
            status=status,
            outcome=outcome,
            customer=customer,
            email=email.strip() if email else None,
            since=_time("--since", since),
            until=_time("--until", until),
        )
    except ValueError as error:
        return terminal.refused(str(error))
    found, more = run_sync(lambda: find_all(wanted, most=limit))
    if json:
        for order in found:
            terminal.write_json(order.model_dump_json())
    else:
        console = terminal.console(width=200)
        console.print(_table(found) if found else "No order matches.")
        if more:
            console.print(f"There are more: these are the newest {len(found):,} (--limit).")
    return 0


def _time(option: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    with suppress(ValueError):
        if (ago := parse(given).ago) is not None:
            return database_time_sync() - ago
    try:
        return in_shop(datetime.fromisoformat(given))
    except ValueError:
        raise ValueError(
            f"{option}: {given!r} is no time: give 2026-01-31, 2026-01-31T12:00, or a period such as 24h"
        ) from None


def _table(orders: Sequence[ListedOrder]) -> FittedTable:
    of_money, of_time = (">total", ">charged", ">refunded"), ("submitted", "time")
    columns = ("order", "status", "failing step", *of_money, *of_time, "tracking")
    less = ("tracking", "refunded", "charged", "time", "failing step", "submitted")
    table = terminal.table(None, *columns, optional=less)
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


def show_order(
    order: str | None = None,
    /,
    *,
    ascii: bool = False,  # noqa: A002  (the option's name)
    mermaid: bool = False,
) -> int:
    """Draw the saga, or the history of one order: steps, compensations, reasons, money, decisions of people.

    On a terminal it draws boxes, elsewhere Mermaid. Below the boxes it says what was ordered, how it is paid,
    and who the customer is.

    Exit codes: 0; 1, there is no such order; 2, the settings are wrong, or the database does not answer.

    Args:
        order: The order's id, such as ORDER-1001. Without one, the saga itself is drawn.
        ascii: Draw boxes, also in a file.
        mermaid: Draw Mermaid, also on a terminal.
    """
    settings()
    boxes = ascii or (sys.stdout.isatty() and not mermaid)
    from deployments.diagrams.documents import DIAGRAMS
    from flows.order_saga import ORDER_SAGA

    if order is None:
        sys.stdout.write(DIAGRAMS["workflow-text" if boxes else "workflow"]())
        return 0
    if (story := read_story_sync(order)) is None:
        return terminal.refused(f"There is no order {for_terminal(order)}. Ids are case-sensitive.", code=1)
    if not boxes:
        sys.stdout.write(tame(order_diagram(story, ORDER_SAGA)))
        return 0
    of_customer = "".join(f"{for_terminal(line, 1_000)}\n" for line in read_customer_lines_sync(order))
    sys.stdout.write(tame(order_boxes(story, ORDER_SAGA) + order_facts(story) + of_customer))
    return 0


_STANDARD_OUTPUT = Path("-")


def label(
    *orders: str,
    shipped_within: str | None = None,
    format: LabelFormat = LabelFormat.PDF,  # noqa: A002  (the option's name)
    dpi: Literal[203, 300] = 203,
    output: Annotated[Path, Parameter(allow_leading_hyphen=True)] = Path(),
) -> int:
    """Write the labels of orders, 4 x 6 inches, as a PDF or as ZPL for label printers.

    Each label is written as soon as it is found. If the command fails, it says how many labels were written.

    Exit codes: 0; 1, an order has no label; 2, the window or a setting is invalid, the database does not
    answer, or a file cannot be written.

    Args:
        orders: The orders' ids, such as ORDER-1001.
        shipped_within: Also the labels of all parcels that left in this window: 10m, 1h, 24h, 7d, all, or
            FROM/TO in ISO 8601.
        format: The format.
        dpi: The label printer's resolution, for ZPL.
        output: The folder of the files, one for each order; - writes to standard output instead.
    """
    try:
        window = parse(shipped_within, shop_zone()) if shipped_within else None
    except ValueError as error:
        return terminal.refused(str(error))
    if not orders and window is None:
        return terminal.refused("Name orders, or use --shipped-within 24h.")
    done = _Written()

    def write(order: str, found: Label) -> None:
        _write(found.render(format, dpi), order, format, output)

    try:
        run_sync(lambda: _write_all(orders, window, write, done))
    except Exception as error:
        if (why := _why(error, output)) is None:
            raise
        return terminal.refused(f"{why} Of {done.wanted} labels, {done.labels} were written before.")
    return int(done.missing > 0)


@dataclass(slots=True)
class _Written:
    """How far a command has come."""

    wanted: int = 0
    labels: int = 0
    missing: int = 0


async def _write_all(
    orders: Sequence[str], window: Window | None, write: Callable[[str, Label], None], done: _Written
) -> None:
    """Writes each label as soon as it is found, so that a failure keeps those before it."""
    ids = list(orders)
    if window is not None:
        bounds = window.at(await database_time()).bounds
        ids += await shipped(bounds["since"], bounds["until"])
    ids = list(dict.fromkeys(ids))
    done.wanted = len(ids)
    try:
        for order in ids:
            try:
                await asyncio.to_thread(write, order, await find_label(order))
            except NoLabel as error:
                done.missing += 1
                terminal.write(f"{for_terminal(order)}: {error}", sys.stderr)
            else:
                done.labels += 1
    finally:
        await close_carriers()


def _why(error: Exception, output: Path) -> str | None:
    """Returns what stops the command, for people; None for an error in the code."""
    if (why := explanation(error)) is None and isinstance(error, OSError):
        return f"{error.filename or output}: the label cannot be written: {error.strerror}."
    return why


def _write(made: bytes, order: str, label_format: LabelFormat, output: Path) -> None:
    if output == _STANDARD_OUTPUT:
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
        return
    path = output / f"{file_stems(order)[0]}.{label_format}"
    write_atomic(path, made)
    terminal.write(str(path))
