"""`order-saga paid`: records money that came for orders by transfer, or was collected on delivery."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from deployments import terminal
from deployments.cli.entries import Entry, InputError, entries_of, listed, read_each, refuse
from deployments.trigger import wake_pending_lane
from shop.payments.errors import NotReceivable, PaymentsNotRecorded
from shop.payments.recording import MOST, IncomingPayment, Received, read_incoming, record_all_sync
from shop.settings import settings
from shop.values.money import show


def paid(
    order: str | None = None,
    amount: str | None = None,
    /,
    *,
    reference: str | None = None,
    by: str | None = None,
    file: str | None = None,
    json: bool = False,
) -> int:
    """Record money that came for orders by transfer or on delivery.

    An order that waits for its money goes on once all of it is recorded. A file has one payment per entry:
    order_id, amount, reference, recorded_by (or --by for all). All payments of a file are recorded, or none;
    recording a file again changes nothing.

    Exit codes: 0, recorded, now or before; 1, nothing was recorded: there is no such order, it is paid
    otherwise, or the reference was recorded with another amount; 2, the input or the settings are invalid, or
    the database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
        amount: What came, in the order's currency, such as 1059.97.
        reference: Number of the transfer, or of the carrier's settlement. The same again changes nothing.
        by: Who records it. Stored with the payment.
        file: A file of payments: JSON, one JSON object per line, or CSV with a header; - reads standard
            input.
        json: Print what was recorded as JSON, one payment per line.
    """
    console = terminal.console(stderr=json, width=120)
    settings()
    one = {"order_id": order, "amount": amount, "reference": reference}
    given = {name: value for name, value in one.items() if value is not None}
    try:
        entries = entries_of(file, "payment", given, one, "order, amount and --reference")
        payments = _read(entries, by)
        recorded = record_all_sync(payments)
    except (InputError, OSError, UnicodeDecodeError) as error:
        return refuse(console, str(error), 2)
    except PaymentsNotRecorded as error:
        places = [(entries[at].place, each) for at, each in error.errors.items()]
        why = listed([f"{place}{reason}" for place, each in places for reason in each.reasons()])
        return refuse(console, f"{why}\nNothing was recorded.", 1)
    if any(each.new for each in recorded):
        wake_pending_lane()
    _show(console, recorded, json=json)
    return 0


def _read(entries: list[Entry], by: str | None) -> list[IncomingPayment]:
    """Reads all payments. Raises `InputError` with the problems of all of them."""
    payments, problems = read_each(entries, read_incoming, NotReceivable, {"recorded_by": by})
    if len(entries) > MOST:
        problems.append(f"{len(entries):,} payments: at most {MOST:,} at once")
    if problems:
        raise listed(problems)
    return payments


def _show(console: Console, recorded: list[Received], *, json: bool) -> None:
    if json:
        for each in recorded:
            terminal.write_json(each.model_dump_json())
        return
    table = terminal.table("Payments", "order", "reference", ">amount", ">received in all", "")
    for each in recorded:
        amounts = (show(amount, each.currency) for amount in (each.amount, each.total_received))
        remark = "" if each.new else "recorded before: nothing was changed"
        if each.came_in_vain:
            remark = f"the order is {each.outcome}: give the money back"
        table.add_row(Text(each.order_id), Text(each.reference), *amounts, remark)
    console.print(table)
