"""`python -m deployments.trigger FILE`: orders from a file to their outcomes, with progress and a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from deployments import terminal, trigger
from deployments.table import outcome_table
from shop import exact_json, report
from shop.database import is_database_trouble
from shop.errors import OrderError
from shop.outcomes import OrderOutcome, Outcome, Receipt
from shop.settings import settings, what_is_wrong

_SHOWN = 40
"""More orders than these are shown as counts, and only those that did not complete one by one."""
_BYTE_ORDER_MARK = "\ufeff"
"""Some programs write it at the beginning of a file; files put together have it at the beginning of other lines, too."""
_LOOK_EVERY = 0.25
_OWN_RUNS_AT_ONCE = 4


class InputError(Exception):
    """The file is not what it should be; says where."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: every order has an outcome, and none needs attention. 1: not so. 2: the input or the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m deployments.trigger", description="Takes orders from a file to their outcomes.")
    parser.add_argument("file", help="a JSON file (a list of orders, or one), or one order a line (NDJSON); - reads standard input")
    parser.add_argument("--own-run", action="store_true", help="a flow run of its own for each order, instead of the pending lane")
    parser.add_argument("--no-wait", action="store_true", help="leave as soon as the orders are stored")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="wait at most so long for outcomes (300)")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON, one order a line")
    options = parser.parse_args(arguments)
    console = terminal.console(stderr=options.json)
    try:
        orders = read_orders(sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8"))
    except (InputError, OSError, UnicodeDecodeError) as error:
        console.print(Text(f"{options.file}: {error}", "red"))
        return 2
    try:
        settings()
        return _run_own(console, orders, options) if options.own_run else _run_pending(console, orders, options)
    except ValidationError as error:
        console.print(Text(what_is_wrong(error), "red"))
        return 2
    except (DBAPIError, psycopg.Error) as error:
        if not is_database_trouble(error):
            raise
        why = type(getattr(error, "orig", None) or error).__name__
        console.print(
            Text(f"The database does not answer, or takes no writes ({why}). Is `make run` running, or DATABASE_URL right?", "red")
        )
        return 1


def read_orders(text: str) -> list[Any]:
    """A JSON list of orders, one order, or one order a line. Numbers are kept exactly. Raises InputError, with the place."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    try:
        parsed = exact_json.loads(text)
    except RecursionError:
        raise InputError("nested too deeply") from None
    except exact_json.NumberOutOfRange as error:
        raise InputError(f"it has {error}") from None
    except json.JSONDecodeError as whole:
        lines = [(number, line.removeprefix(_BYTE_ORDER_MARK)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2:
            raise InputError(f"not JSON: {whole.msg} in line {whole.lineno}, column {whole.colno}") from None
        return [_read_line(number, line) for number, line in lines]
    if not parsed:
        raise InputError("there is no order in it")
    return parsed if isinstance(parsed, list) else [parsed]


def _read_line(number: int, line: str) -> Any:
    try:
        return exact_json.loads(line)
    except exact_json.NumberOutOfRange as error:
        raise InputError(f"line {number} has {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"line {number} is not JSON: {error}") from None


def _run_pending(console: Console, orders: list[Any], options: argparse.Namespace) -> int:
    receipts = trigger.submit_orders(orders)
    refused = [receipt for receipt in receipts if receipt.status == "refused"]
    counts = Counter(receipt.status + (f" ({receipt.outcome})" if receipt.outcome else "") for receipt in receipts)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()), highlight=False)
    _show_refused(console, refused)
    _show_ended(console, [receipt for receipt in receipts if receipt.outcome is not None])
    ids = list(dict.fromkeys(receipt.order_id for receipt in receipts if receipt.order_id and receipt.status != "refused"))
    if not ids:
        return 1
    if any(receipt.status == "accepted" for receipt in receipts):
        trigger.wake_pending_lane()
    if options.no_wait:
        return 1 if refused else 0
    _wait(console, ids, options.timeout)
    return _show(console, ids, report.read(ids), options) or int(bool(refused))


def _wait(console: Console, ids: list[str], seconds: float) -> None:
    until = time.monotonic() + seconds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("orders", total=len(ids))
        while (ended := report.count_ended(ids)) < len(ids) and time.monotonic() < until:
            progress.update(bar, completed=ended)
            time.sleep(_LOOK_EVERY)


def _run_own(console: Console, orders: list[Any], options: argparse.Namespace) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ended: dict[str, OrderOutcome] = {}
    refused: list[Receipt] = []
    late: list[str] = []

    def run(order: Any) -> None:
        try:
            outcome = trigger.run_order(order, own_run=True, timeout=options.timeout)
        except OrderError as error:
            refused.append(Receipt(order_id=None, status="refused", reasons=error.reasons()))
        except TimeoutError:
            late.append(str(order["id"]))
        else:
            ended[outcome.order_id] = outcome

    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor(_OWN_RUNS_AT_ONCE) as threads:
        bar = progress.add_task("orders", total=len(orders))
        for _ in threads.map(run, orders):
            progress.advance(bar)
    _show_refused(console, refused)
    return _show(console, [*ended, *late], ended, options) or int(bool(refused))


def _show_refused(console: Console, refused: list[Receipt]) -> None:
    for receipt in refused[:_SHOWN]:
        console.print(Text(f"refused: {receipt.order_id or 'an order without a usable id'}: {'; '.join(receipt.reasons)}", "yellow"))


def _show_ended(console: Console, ended: list[Receipt]) -> None:
    """Of those that did not complete, whoever sends them again may expect another try."""
    for receipt in [each for each in ended if each.outcome is not Outcome.COMPLETED][:_SHOWN]:
        why = f": {'; '.join(receipt.reasons)}" if receipt.reasons else ""
        console.print(Text(f"known: {receipt.order_id} ended as {receipt.outcome} and is not tried again{why}", "yellow"))


def _show(console: Console, ids: list[str], outcomes: dict[str, OrderOutcome], options: argparse.Namespace) -> int:
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
            console.print("  ".join(f"{name}: {count}" for name, count in counts.most_common()), highlight=False)
    return int(any(o is None or o.outcome in {None, Outcome.NEEDS_ATTENTION} for _, o in ends))


def _explain(console: Console, others: list[tuple[str, OrderOutcome | None]]) -> None:
    for order_id, outcome in others:
        for reason in outcome.reasons if outcome else []:
            console.print(Text(f"{order_id}: {reason}", "dim"))
