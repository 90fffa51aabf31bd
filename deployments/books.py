"""`python -m deployments.books`: do the books balance? Our tables against the payment gateway's own account of our payments, and stock
against what was shipped.

They do at rest; while orders are under way their money and stock may be in between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from deployments import terminal
from shop.books import Books, Totals, gateway_totals, read_books
from shop.errors import PaymentError
from shop.installation import installation_id
from shop.payments.gateways import gateway
from shop.settings import settings, what_is_wrong
from shop.sync import run_sync

_MARKS = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("–", "dim")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: they balance. 1: they do not. 2: the database or the gateway does not answer, or the settings are wrong: nothing was
    compared."""
    parser = argparse.ArgumentParser(prog="python -m deployments.books", description="Do the books balance?")
    parser.parse_args(arguments)
    try:
        books = read_books(settings().database_url, ask_gateway())
    except ValidationError as error:
        return _sorry(what_is_wrong(error))
    except SQLAlchemyError as error:
        why = type(getattr(error, "orig", error)).__name__
        return _sorry(f"The database does not answer, or its tables are behind ({why}). Is `make run` running, or DATABASE_URL right?")
    except PaymentError as error:
        why = f"the payment gateway does not say what it charged ({error})"
        return _sorry(f"Nothing was compared: {why}. See PAYMENT_GATEWAY_URL, and the gateway's key.")
    terminal.console(width=130).print(books_table(books))
    return int(not books.balanced)


def ask_gateway() -> Totals:
    """What the gateway that is set charged and refunded for us, ever. On a terminal it shows how far it is. Raises `PaymentError`, and
    what the database raises."""

    shown = sys.stderr.isatty()

    async def ask() -> Totals:
        await installation_id()  # without the database nobody can say which payments are ours
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
    """Each row of the books with its witness."""
    title: str | Text = (
        "The books balance" if books.compared else "The books, without the payment gateway: python -m deployments.books asks it"
    )
    if not books.balanced:
        title = Text("The books do not balance", "bold red")
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("", "our tables", "the witness", ""):
        table.add_column(column)
    for row in books.rows:
        table.add_row(row.name, row.ours, row.witness, _MARKS[row.ok])
    return table


def _sorry(why: str) -> int:
    terminal.write(why, sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
