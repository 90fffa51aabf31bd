"""`order-saga samples`: sends the sample orders to a running system."""

from __future__ import annotations

from deployments import terminal
from deployments.cli.books_table import books_table
from deployments.cli.outcome_table import outcome_table
from deployments.local.display import Display
from deployments.running import use_running_world


def samples() -> int:
    """Send the sample orders to a running system, show their outcomes, and the books.

    The system is that of the settings: the Prefect server with its workers, the database and the gateway. It
    needs the sandbox or a test mode of Stripe: with a live key nothing is sent. Sent again, orders keep their
    first outcome.

    Exit codes: 0, every sample ended as expected and the books balance; 1, otherwise.
    """
    use_running_world()
    from deployments.samples.demonstration import as_expected, books_at_rest, notes, send_samples

    console = terminal.console(width=130)
    with Display(console, []) as display:
        ended = send_samples(display)
    books = books_at_rest(ask_stripe=True)
    console.print(
        outcome_table("Sample orders", [(each.order_id, each.outcome) for each in ended]),
        notes(ended),
        books_table(books),
    )
    return 0 if as_expected(ended, books) else 1
