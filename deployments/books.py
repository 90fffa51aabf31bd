"""`python -m deployments.books`: do the books balance? Our tables against the payment gateway's ledger, and stock against what was shipped.

They do at rest; while orders are under way their money and stock may be in between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import httpx
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from shop.books import Books, read_books
from shop.settings import settings, what_is_wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: they balance. 1: they do not. 2: somebody does not answer, or the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m deployments.books", description="Do the books balance?")
    parser.parse_args(arguments)
    try:
        s = settings()
        # Stripe knows of payments that are not this shop's: reconcile-payments compares those one by one.
        books = read_books(s.database_url, s.gateway_url if s.payment_gateway == "sandbox" else None)
    except ValidationError as error:
        return _sorry(what_is_wrong(error))
    except SQLAlchemyError as error:
        why = type(getattr(error, "orig", error)).__name__
        return _sorry(f"The database does not answer, or its tables are behind ({why}). Is `make run` running, or DATABASE_URL right?")
    except httpx.HTTPError as error:
        return _sorry(f"The payment gateway does not answer ({type(error).__name__}): see PAYMENT_GATEWAY_URL.")
    Console(width=None if sys.stdout.isatty() else 130).print(books_table(books))
    return int(not books.balanced)


def books_table(books: Books) -> Table:
    """Each row of the books with its witness."""
    title = "The books balance" if books.balanced else Text("The books do not balance", "bold red")
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("", "our tables", "the witness", ""):
        table.add_column(column)
    for row in books.rows:
        table.add_row(row.name, row.ours, row.witness, Text("✓", "green") if row.ok else Text("✗", "bold red"))
    return table


def _sorry(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
