"""Cancels orders: stores the request, and who asked for it, in one transaction.

Before the pivot the order is compensated like one that failed. After the pivot it is returned: the money is
refunded, the items are back in stock, and the customer is notified. Shipping (`shop.shipping.fulfilment`) and
cancelling write the same row, so that an order is never both shipped and cancelled before it was shipped.
"""

from __future__ import annotations

from sqlalchemy import Connection

from saga import cancelling
from saga.cancelling import Asked
from saga.database import sync_engine, transaction
from saga.failpoints import failpoint
from shop.orders.store import ORDERS
from shop.review.actions import add_entry, required_text, system_text
from shop.review.errors import OrderUnknown
from shop.settings import settings

_ASKING = failpoint("the commit of asking to cancel")


async def ask_to_cancel(
    order_id: str, *, reason: str, requested_by: str, started_by: str | None = None
) -> Asked:
    """Stores the request once; from then on the order is compensated, whichever process dies.

    `requested_by` is what a person typed, `started_by` what the system knows about that person. Raises
    `OrderUnknown` and `ResolutionIncomplete`.
    """
    reason, requested_by = _words(reason, requested_by)
    async with transaction(_ASKING) as tx:
        return await tx.run_sync(ask_in, order_id, reason, requested_by, started_by)


def ask_to_cancel_sync(
    order_id: str, *, reason: str, requested_by: str, started_by: str | None = None
) -> Asked:
    """The same, for callers without an event loop."""
    reason, requested_by = _words(reason, requested_by)
    with sync_engine(settings().database_url).begin() as connection:
        return ask_in(connection, order_id, reason, requested_by, started_by)


async def withdraw(
    *,
    order_id: str | None,
    flow_run_id: str | None,
    reason: str,
    requested_by: str,
    started_by: str | None = None,
) -> list[str]:
    """Stores cancel requests for this order and for the orders that the run has, or had last, unless they are
    shipped. Returns the ids of those without a request or a failure before."""

    def ask(connection: Connection) -> list[str]:
        found = cancelling.withdraw(
            connection, ORDERS, instance_id=order_id, flow_run_id=flow_run_id, reason=reason, by=requested_by
        )
        for each in found:
            _add_entry(connection, each, reason, requested_by, started_by)
        return found

    async with transaction(_ASKING) as tx:
        return await tx.run_sync(ask)


def _words(reason: str, requested_by: str) -> tuple[str, str]:
    return (
        required_text("reason", reason, "say why the order is cancelled; it is kept with the order"),
        required_text("requested_by", requested_by, "say who asks for it; it is kept with the order"),
    )


def ask_in(
    connection: Connection, order_id: str, reason: str, requested_by: str, started_by: str | None
) -> Asked:
    """The same in the caller's transaction, with words that are checked. Raises `OrderUnknown`."""
    asked = cancelling.request_cancellation(connection, ORDERS, order_id, reason=reason, by=requested_by)
    if asked is None:
        raise OrderUnknown(order_id)
    if asked is Asked.ASKED:
        _add_entry(connection, order_id, reason, requested_by, started_by)
    return asked


def _add_entry(
    connection: Connection, order_id: str, reason: str, requested_by: str, started_by: str | None
) -> None:
    started_by = system_text(started_by)
    add_entry(connection, order_id, "cancel", by=requested_by, started_by=started_by, reason=reason)
