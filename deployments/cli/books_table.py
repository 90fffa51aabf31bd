"""Shows the books as a table: our tables beside the gateway's payments, and stock beside shipments."""

from __future__ import annotations

import sys

from rich import box
from rich.table import Table
from rich.text import Text

from shop.payments.gateways import gateway
from shop.reconciliation.books import Books, Totals, gateway_totals
from shop.runtime.installation import installation_id
from shop.runtime.sync import run_sync

_MARKS = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("–", "dim")}


def ask_gateway() -> Totals:
    """Returns what the gateway has charged and refunded for this installation, ever. Shows progress on a
    terminal. Raises `PaymentError` and database errors."""

    shown = sys.stderr.isatty()

    async def ask() -> Totals:
        await installation_id()  # the database has the id that marks our payments
        return await gateway_totals(gateway(), _show_progress if shown else lambda _: None)

    try:
        return run_sync(ask)
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")


def _show_progress(payments: int) -> None:
    sys.stderr.write(f"\rreading the gateway's payments: {payments:,}\x1b[K")
    sys.stderr.flush()


def books_table(books: Books) -> Table:
    """Prints each row of the books with its source."""
    title: str | Text = (
        "The books balance"
        if books.compared
        else "The books, without the payment gateway (order-saga books includes it)"
    )
    if not books.balanced:
        title = Text("The books do not balance", "bold red")
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("", "our tables", "the source", ""):
        table.add_column(column)
    for row in books.rows:
        table.add_row(row.name, row.ours, row.source, _MARKS[row.ok])
    return table
