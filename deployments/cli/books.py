"""`order-saga books`: checks whether the books balance.

They do at rest; while orders are in progress, their money and stock may be in transit.
"""

from __future__ import annotations

import sys

from rich.text import Text

from deployments import terminal
from deployments.terminal import FittedTable
from shop.payments.errors import PaymentError
from shop.payments.gateways import gateway
from shop.reconciliation.books import Books, Totals, gateway_totals, read_books
from shop.runtime.installation import installation_id
from shop.runtime.sync import run_sync
from shop.settings import settings

_MARKS = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("–", "dim")}


def books() -> int:
    """Compare our tables with the payment gateway's payments, and stock with shipments.

    Exit codes: 0, the books balance; 1, they do not; 2, nothing was compared, because the database or the
    gateway does not answer, or the settings are invalid.
    """
    try:
        found = read_books(settings().database_url, ask_gateway())
    except PaymentError as error:
        why = f"reading the payment gateway's payments failed ({error})"
        return terminal.refused(
            f"Nothing was compared: {why}. Check PAYMENT_GATEWAY_URL and the gateway's key."
        )
    terminal.console(width=130).print(books_table(found))
    return int(not found.balanced)


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


def books_table(books: Books) -> FittedTable:
    """Returns each row of the books with its source."""
    title: str | Text = (
        "The books balance"
        if books.compared
        else "The books, without the payment gateway (order-saga books includes it)"
    )
    if not books.balanced:
        title = Text("The books do not balance", "bold red")
    table = terminal.table(
        title, "", "our tables", "the source", " ", wrapped=("", "our tables", "the source")
    )
    for row in books.rows:
        table.add_row(row.name, row.ours, row.source, _MARKS[row.ok])
    return table
