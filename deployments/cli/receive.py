"""`order-saga receive`: records goods that have arrived, and adds them to the stock."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments import terminal
from deployments.cli.entries import listed, read_entries
from deployments.cli.submit import InputError
from deployments.cli.trouble import explanation
from deployments.who import user
from saga.errors import StepError
from shop.inventory.deliveries import MOST_LINES, DeliveryNote, DeliveryReceipt, merged, read_delivery
from shop.inventory.errors import InvalidDelivery, InventoryUnavailable
from shop.inventory.receiving import receive as record
from shop.orders.report import count_out_of_stock
from shop.runtime.sync import run_sync
from shop.settings import settings


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
    shared = {key: value for key, value in {"received_by": by, "note": note}.items() if value is not None}
    try:
        entries = _entries(file, given)
        deliveries = _read(entries, shared, of_a_file=file is not None)
    except (InputError, OSError, UnicodeDecodeError) as error:
        return _refuse(console, str(error), 2)
    if (url := settings().inventory.service_url) is not None:
        console.print(Text(f"The inventory service at {url} has the stock, and receives the goods.", "dim"))
    try:
        receipts = run_sync(lambda: record(deliveries, started_by=started_by))
    except InventoryUnavailable as error:
        references = ", ".join(each.reference for each in deliveries[:5])
        again = f"It is unclear whether the goods were received. Run it again with --reference {references}."
        return _refuse(console, f"{error}. {again if file is None else 'Run it again.'}", 1)
    except StepError as error:
        return _refuse(console, str(error), 1)
    _show(console, receipts, json=json)
    return 0


def _entries(file: str | None, given: dict[str, str]) -> list[Any]:
    if file is None:
        if missing := [name for name in ("product_id", "pieces") if name not in given]:
            raise InputError(f"missing: {' and '.join(missing)}. Give a product and its pieces, or --file")
        return [given]
    if given:
        raise InputError("give --file, or a product and its pieces, not both")
    return [entry.given for entry in read_entries(file, "delivery")]


def _read(entries: list[Any], shared: dict[str, str], *, of_a_file: bool) -> list[DeliveryNote]:
    """Reads all deliveries. Raises `InputError` with the problems of all of them."""
    deliveries, problems = [], []
    for number, entry in enumerate(entries, 1):
        try:
            deliveries.append(read_delivery({**shared, **entry} if isinstance(entry, dict) else entry))
        except InvalidDelivery as error:
            place = f"delivery {number}: " if of_a_file else ""
            problems += [f"{place}{reason}" for reason in error.reasons()]
    deliveries = merged(deliveries)
    if len(deliveries) > MOST_LINES:
        problems.append(f"{len(deliveries)} deliveries: at most {MOST_LINES} at once")
    if problems:
        raise listed(problems)
    return deliveries


def _refuse(console: Console, why: str, code: int) -> int:
    console.print(Text(why, "red"))
    return code


def _show(console: Console, receipts: list[DeliveryReceipt], *, json: bool) -> None:
    if json:
        for receipt in receipts:
            terminal.write_json(receipt.model_dump_json())
    else:
        title = "Goods received"
        table = Table(
            title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1)
        )
        for column in ("reference", "product"):
            table.add_column(column, overflow="fold")
        for column in ("pieces", "on hand", "reserved"):
            table.add_column(column, justify="right")
        table.add_column("")
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
