"""`order-saga submit FILE`: takes the orders of a file to their outcomes, and shows progress and a table."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from deployments import terminal, trigger
from deployments.cli.entries import InputError, read_file, read_orders
from deployments.cli.outcome_table import outcome_table
from deployments.cli.seconds import Wait
from deployments.cli.trouble import explanation
from saga.database import is_database_error
from saga.errors import StepError
from shop.orders import report
from shop.orders.formats.known import FORMATS
from shop.orders.outcomes import OrderOutcome, Outcome, Receipt
from shop.settings import settings

_SHOWN = 40
"""Limits the orders listed one by one. Of more, the table shows counts, and only those that did not
complete."""
_POLL_SECONDS = 0.25
_OWN_RUNS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Options:
    timeout: float
    json: bool
    wait: bool


def _no_option(_: type, file: str) -> None:
    if file.startswith("-") and file != "-":
        raise ValueError(f"unknown option {file}")


File = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]


def submit(
    file: File,
    /,
    *,
    format: str | None = None,  # noqa: A002  (the option's name)
    own_run: bool = False,
    no_wait: bool = False,
    timeout: Wait = 300,
    json: bool = False,
) -> int:
    """Take orders from a file to their outcomes.

    Exit codes: 0, every order has an outcome and none needs attention; 1, otherwise; 2, the input or the
    settings are invalid, or the database does not answer.

    Args:
        file: A JSON file (a list of orders, or one), or one order per line (NDJSON); - reads standard input.
        format: The shop system that wrote the file: shopify, woocommerce or medusa. By default it has this
            project's orders. An export may also be an object with the list `orders`.
        own_run: Start a flow run for each order, instead of using the pending lane.
        no_wait: Exit as soon as the orders are stored.
        timeout: Limits the wait for outcomes, in seconds.
        json: Print the outcomes as JSON, one order per line.
    """
    console = terminal.console(stderr=json, width=150)
    if wrong := _wrong_format(format, own_run):
        console.print(Text(wrong, "red"))
        return 2
    options = _Options(timeout=timeout, json=json, wait=not no_wait)
    try:
        orders = read_orders(read_file(file))
    except InputError as error:
        console.print(Text(f"{file}: {error}", "red"))
        return 2
    settings()
    try:
        if own_run:
            return _run_own(console, orders, options)
        receipts = (
            trigger.submit_payloads(format, _listed(orders)) if format else trigger.submit_orders(orders)
        )
        return _run_pending(console, receipts, options)
    except (DBAPIError, psycopg.Error) as error:  # some of the orders may be stored
        if not is_database_error(error):
            raise
        again = "Some of the orders may be stored: submitting all of them again is safe."
        console.print(Text(f"{explanation(error)} {again}", "red"))
        return 2


def _wrong_format(name: str | None, own_run: bool) -> str | None:
    if name is None:
        return None
    if name not in FORMATS:
        return f"unknown format: there are {', '.join(FORMATS)}"
    return "--format and --own-run exclude each other" if own_run else None


def _listed(entries: list[Any]) -> list[Any]:
    """Returns the orders of an export, which may be in objects with the list `orders`."""
    return [
        order
        for entry in entries
        for order in (
            entry["orders"] if isinstance(entry, dict) and isinstance(entry.get("orders"), list) else [entry]
        )
    ]


def _run_pending(console: Console, receipts: list[Receipt], options: _Options) -> int:
    refused = [receipt for receipt in receipts if receipt.status == "refused"]
    counts = Counter(
        receipt.status + (f" ({receipt.outcome})" if receipt.outcome else "") for receipt in receipts
    )
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()), highlight=False)
    _show_receipts(console, receipts)
    ids = list(
        dict.fromkeys(
            receipt.order_id for receipt in receipts if receipt.order_id and receipt.status != "refused"
        )
    )
    if not ids:
        return 1
    if any(receipt.status == "accepted" for receipt in receipts):
        trigger.wake_pending_lane()
    if not options.wait:
        return 1 if refused else 0
    _wait(console, ids, options.timeout)
    return _show(console, ids, report.read(ids), options) or int(bool(refused))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _wait(console: Console, ids: list[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    with _progress(console) as progress:
        bar = progress.add_task("orders", total=len(ids))
        while (ended := report.count_ended(ids)) < len(ids) and time.monotonic() < until:
            progress.update(bar, completed=ended)
            time.sleep(_POLL_SECONDS)


def _run_own(console: Console, orders: list[Any], options: _Options) -> int:
    ended: dict[str, OrderOutcome] = {}
    refused: list[Receipt] = []
    late: list[str] = []

    def run(order: Any) -> None:
        try:
            outcome = trigger.run_order(order, own_run=True, timeout=options.timeout)
        except StepError as error:
            refused.append(Receipt(order_id=None, status="refused", reasons=error.reasons()))
        except TimeoutError:
            late.append(str(order["id"]))
        else:
            ended[outcome.order_id] = outcome

    with (
        _progress(console) as progress,
        ThreadPoolExecutor(_OWN_RUNS_AT_ONCE) as threads,
    ):
        bar = progress.add_task("orders", total=len(orders))
        for _ in threads.map(run, orders):
            progress.advance(bar)
    _show_receipts(console, refused)
    return _show(console, [*ended, *late], ended, options) or int(bool(refused))


def _show_receipts(console: Console, receipts: list[Receipt]) -> None:
    """Shows what was refused, what has no place here, and known orders that did not complete: the sender may
    expect another attempt."""
    for receipt in [each for each in receipts if each.status == "refused"][:_SHOWN]:
        name = receipt.order_id or "an order without a usable id"
        console.print(Text(f"refused: {name}: {'; '.join(receipt.reasons)}", "yellow"))
    for receipt in [each for each in receipts if each.ignored][:_SHOWN]:
        console.print(Text(f"no place here: {receipt.order_id}: {', '.join(receipt.ignored)}", "dim"))
    for receipt in [each for each in receipts if each.outcome not in {None, Outcome.COMPLETED}][:_SHOWN]:
        why = f": {'; '.join(receipt.reasons)}" if receipt.reasons else ""
        ended = f"known: {receipt.order_id} ended as {receipt.outcome} and is not retried{why}"
        again = f"\n  to retry it: {receipt.how_to_retry}" if receipt.how_to_retry is not None else ""
        console.print(Text(f"{ended}{again}", "yellow"), soft_wrap=True)


def _show(console: Console, ids: list[str], outcomes: dict[str, OrderOutcome], options: _Options) -> int:
    ends = [(order_id, outcomes.get(order_id)) for order_id in ids]
    if options.json:
        for _, outcome in ends:
            if outcome is not None:
                terminal.write_json(outcome.model_dump_json())
    else:
        others = [(i, o) for i, o in ends if not o or o.outcome is not Outcome.COMPLETED]
        console.print(outcome_table("Orders", (ends if len(ends) <= _SHOWN else others)[:_SHOWN]))
        _explain(console, others[:_SHOWN])
        if len(ends) > _SHOWN:
            counts = Counter(str(o.outcome or "no outcome yet") if o else "no outcome yet" for _, o in ends)
            console.print(
                "  ".join(f"{name}: {count}" for name, count in counts.most_common()), highlight=False
            )
    return int(any(o is None or o.outcome in {None, Outcome.NEEDS_ATTENTION} for _, o in ends))


def _explain(console: Console, others: list[tuple[str, OrderOutcome | None]]) -> None:
    for order_id, outcome in others:
        for reason in outcome.reasons if outcome else []:
            console.print(Text(f"{order_id}: {reason}", "dim"))
