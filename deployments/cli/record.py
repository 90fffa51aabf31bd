"""`order-saga paid` and `receive`: record money that came by transfer or on delivery, and goods."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from deployments import terminal
from deployments.cli.entries import Entry, InputError, entries_of, listed, read_each, refuse
from deployments.cli.trouble import explanation
from deployments.running import user
from deployments.trigger import wake_pending_lane
from saga.errors import StepError
from shop.inventory.deliveries import MOST_LINES, DeliveryNote, DeliveryReceipt, merged, read_delivery
from shop.inventory.errors import InvalidDelivery, InventoryUnavailable
from shop.inventory.stock import receive as record_deliveries
from shop.orders.report import count_out_of_stock
from shop.payments.errors import AmountInvalid, NotReceivable, PaymentsNotRecorded
from shop.payments.recording import MOST, IncomingPayment, Received, read_incoming, record_all_sync
from shop.runtime.sync import run_sync
from shop.settings import settings
from shop.values.money import show

_OF_PAYMENT = {
    "order_id": "ORDER",
    "amount": "AMOUNT",
    "reference": "--reference",
    "recorded_by": "--by",
}
_OF_DELIVERY = {
    "product_id": "PRODUCT",
    "pieces": "PIECES",
    "reference": "--reference",
    "name": "--name",
    "received_by": "--by",
    "note": "--note",
}
"""Arguments and options by the field that they give."""


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

    An order that waits for its money continues once all of it is recorded. A file has one payment per entry:
    order_id, amount, reference, recorded_by (or --by for all). All payments of a file are recorded, or none;
    recording a file again changes nothing.

    Exit codes: 0, recorded, now or before; 1, nothing was recorded: there is no such order, it is paid
    otherwise, or the reference was recorded with another amount; 2, the input or the settings are invalid, or
    the database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
        amount: What came, in the order's currency, such as 1059.97; negative: what was given back because it
            was more than is due.
        reference: Number of the transfer, or of the carrier's settlement. The same again changes nothing.
        by: Who records it. Stored with the payment.
        file: A file of payments: JSON, one JSON object per line, or CSV with a header; - reads standard
            input.
        json: Print what was recorded as JSON, one payment per line.
    """
    console = terminal.console(stderr=json, width=120)
    settings()
    one = {"order_id": order, "amount": amount, "reference": reference}
    one |= {"recorded_by": by} if file is None else {}
    given = {name: value for name, value in one.items() if value is not None}
    try:
        entries = entries_of(file, "payment", given, _OF_PAYMENT)
        payments = _payments(entries, by)
        recorded = record_all_sync(payments)
    except InputError as error:
        return refuse(console, str(error), 2)
    except PaymentsNotRecorded as error:
        places = [(entries[at].place, each) for at, each in error.errors.items()]
        why = listed([f"{place}{reason}" for place, each in places for reason in each.reasons()])
        invalid = any(type(each) is AmountInvalid for each in error.errors.values())
        return refuse(console, f"{why}\nNothing was recorded.", 2 if invalid else 1)
    if any(each.new for each in recorded):
        wake_pending_lane()
    _show_payments(console, recorded, json=json)
    return 0


def _payments(entries: list[Entry], by: str | None) -> list[IncomingPayment]:
    """Reads all payments. Raises `InputError` with the problems of all of them."""
    payments, problems = read_each(entries, read_incoming, NotReceivable, {"recorded_by": by}, _OF_PAYMENT)
    if len(entries) > MOST:
        problems.append(f"{len(entries):,} payments: at most {MOST:,} at once")
    if problems:
        raise listed(problems)
    return payments


def _show_payments(console: Console, recorded: list[Received], *, json: bool) -> None:
    if json:
        for each in recorded:
            terminal.write_json(each.model_dump_json())
        return
    table = terminal.table("Payments", "order", "reference", ">amount", ">received in all", "", wrapped=("",))
    for each in recorded:
        amounts = (show(amount, each.currency) for amount in (each.amount, each.total_received))
        remark = each.to_do or ("" if each.new else "recorded before: nothing was changed")
        table.add_row(Text(each.order_id), Text(each.reference), *amounts, remark)
    console.print(table)


def receive(
    product: str | None = None,
    pieces: str | None = None,
    /,
    *,
    reference: str | None = None,
    name: str | None = None,
    by: str | None = None,
    note: str | None = None,
    file: str | None = None,
    json: bool = False,
) -> int:
    """Record goods that have arrived, and add them to the stock.

    A file has one delivery per entry: reference, product_id, pieces, name, received_by and note, or items (a
    list of product_id, pieces and name) for several products. Entries with the same reference are one
    delivery. All deliveries of a file are recorded, or none. With INVENTORY_SERVICE_URL, the inventory
    service has the stock and records them.

    Exit codes: 0, the goods are in stock; 1, nothing was received: an unknown product, a reference with other
    goods, or the inventory service refuses or does not answer; 2, the input or the settings are invalid, or
    the database does not answer.

    Args:
        product: The product's id, such as PROD-001.
        pieces: How many pieces arrived.
        reference: Number of the delivery note. The same delivery again changes nothing.
        name: The product's name, if it is new: creates it.
        by: Who received the goods. Stored beside the user of this machine.
        note: Stored with the delivery.
        file: A file of deliveries: JSON, one JSON object per line, or CSV with a header; - reads standard
            input.
        json: Print the receipts as JSON, one delivery per line.
    """
    console = terminal.console(stderr=json, width=120)
    settings()
    started_by = user("with order-saga")
    one = {"product_id": product, "pieces": pieces, "reference": reference, "name": name}
    given = {key: value for key, value in one.items() if value is not None}
    try:
        needed = {name: _OF_DELIVERY[name] for name in ("product_id", "pieces")}
        entries = entries_of(file, "delivery", given, needed)
        deliveries = _deliveries(entries, {"received_by": by, "note": note})
    except InputError as error:
        return refuse(console, str(error), 2)
    if (url := settings().inventory.service_url) is not None:
        console.print(Text(f"The inventory service at {url} has the stock, and receives the goods.", "dim"))
    try:
        receipts = run_sync(lambda: record_deliveries(deliveries, started_by=started_by))
    except InventoryUnavailable as error:
        references = ", ".join(each.reference for each in deliveries[:5])
        again = f"It is unclear whether the goods were received. Run it again with --reference {references}."
        return refuse(console, f"{error}. {again if file is None else 'Run it again.'}", 1)
    except StepError as error:
        return refuse(console, str(error), 1)
    _show_deliveries(console, receipts, json=json)
    return 0


def _deliveries(entries: list[Entry], shared: dict[str, str | None]) -> list[DeliveryNote]:
    """Reads all deliveries. Raises `InputError` with the problems of all of them."""
    read, problems = read_each(entries, read_delivery, InvalidDelivery, shared, _OF_DELIVERY)
    deliveries: list[DeliveryNote] = []
    try:
        deliveries = merged(read)
    except InvalidDelivery as error:
        problems += error.reasons()
    if len(deliveries) > MOST_LINES:
        problems.append(f"{len(deliveries):,} deliveries: at most {MOST_LINES:,} at once")
    if problems:
        raise listed(problems)
    return deliveries


def _show_deliveries(console: Console, receipts: list[DeliveryReceipt], *, json: bool) -> None:
    if json:
        for receipt in receipts:
            terminal.write_json(receipt.model_dump_json())
    else:
        columns = ("reference", "product", ">pieces", ">on hand", ">reserved", "")
        table = terminal.table("Goods received", *columns, wrapped=("",))
        for receipt in receipts:
            known = "" if receipt.status == "received" else "received before: nothing was added"
            for item in receipt.items:
                figures = (f"{n:,}" for n in (item.pieces, item.on_hand, item.reserved))
                table.add_row(Text(receipt.reference), Text(item.product_id), *figures, known)
        console.print(table)
    products = {item.product_id for r in receipts if r.status == "received" for item in r.items}
    try:
        waiting = run_sync(lambda: count_out_of_stock(sorted(products))) if products else 0
    except Exception as error:
        if explanation(error) is None:
            raise
        return  # the goods are received; with an inventory service, without our database
    if waiting:
        console.print(
            f"{waiting:,} order{'s' if waiting != 1 else ''} of the last 30 days ended as out_of_stock and "
            "asked for these products. To try one again: order-saga retry ORDER."
        )
