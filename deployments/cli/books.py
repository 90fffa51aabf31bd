"""`order-saga books`: checks whether the books balance.

They do at rest; while orders are in progress, their money and stock may be in transit.
"""

from __future__ import annotations

import sys

from deployments import terminal
from deployments.cli.books_table import ask_gateway, books_table
from shop.payments.errors import PaymentError
from shop.reconciliation.books import read_books
from shop.settings import settings


def books() -> int:
    """Compare our tables with the payment gateway's payments, and stock with shipments.

    Exit codes: 0, the books balance; 1, they do not; 2, nothing was compared, because the database or the
    gateway does not answer, or the settings are invalid.
    """
    try:
        found = read_books(settings().database_url, ask_gateway())
    except PaymentError as error:
        why = f"reading the payment gateway's payments failed ({error})"
        terminal.write(
            f"Nothing was compared: {why}. Check PAYMENT_GATEWAY_URL and the gateway's key.", sys.stderr
        )
        return 2
    terminal.console(width=130).print(books_table(found))
    return int(not found.balanced)
