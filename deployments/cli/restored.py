"""`order-saga restored TIME`: what to do once after the database was restored to an earlier time."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text

from deployments import terminal
from saga.clock import database_time_sync
from shop.payments.errors import PaymentError
from shop.payments.gateways import gateway
from shop.reconciliation.restored import Restored, take_up
from shop.runtime.installation import installation_id
from shop.runtime.sync import run_sync
from shop.runtime.times import shop_zone, shown
from shop.settings import settings
from shop.values.money import show


def restored(time: str, /) -> int:
    """Prepare the database after it was restored to an earlier time. Run it before workers start.

    Asks the payment gateway what moved since then. Orders that it has payments of and the database has not
    are looked up there before they are charged, so sending the shop's orders again charges nobody twice.
    Lists those that the database does not know. Safe to repeat.

    Exit codes: 0, it is prepared; 1, the gateway does not answer: run it again; 2, an argument or the
    settings are invalid, or the database does not answer.

    Args:
        time: The time to which the database was restored, in ISO 8601, such as 2031-02-03T09:30+00:00. An
            earlier one means more to compare; instead of a later one, the newest order's time counts.
    """
    settings()
    try:
        since = datetime.fromisoformat(time.strip())
    except ValueError:
        return terminal.refused(f"{time!r} is not a time in ISO 8601, such as 2031-02-03T09:30+00:00.")
    since = since if since.tzinfo else since.replace(tzinfo=shop_zone())
    if since > database_time_sync():
        return terminal.refused(f"{shown(since)} is in the future.")

    async def ask() -> Restored:
        await installation_id()  # the database has the id that marks our payments
        return await take_up(gateway(), since)

    try:
        found = run_sync(ask)
    except PaymentError as error:
        return terminal.refused(f"The payment gateway does not answer ({error}). Run it again.", code=1)
    _show(found)
    return 0


def _show(found: Restored) -> None:
    if found.unknown:
        title = "Orders that the gateway has payments of, and this database does not know"
        table = terminal.table(title, "order", ">charged and not refunded")
        for order_id, kept in sorted(found.unknown.items()):
            amounts = ", ".join(show(amount, currency) for currency, amount in sorted(kept.items()))
            table.add_row(Text(order_id), amounts)
        terminal.console(width=120).print(table)
    terminal.write(
        f"{found.payments:,} payments moved since {shown(found.since)}: of {len(found.unknown):,} orders "
        f"that are unknown, and of {len(found.open):,} open orders whose journal lacks them. All are looked "
        "up before they are charged. Now send the shop's orders since then again, and start the workers."
    )
