"""What to do once after the database was restored to an earlier time, before workers start: the gateway knows
of payments that the database does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from saga.database import transaction
from shop.orders import lost_steps
from shop.payments.charge import STEP
from shop.payments.gateway import PaymentGateway
from shop.shipping import shipments

_MARGIN = timedelta(hours=1)
"""The greatest expected difference between the gateway's clock and the database's, and the longest time
between a payment and its entry in the journal."""
SKIPPED_SERIALS = 1_000_000
"""How many numbers of parcels are left out: more than were given since that time."""


@dataclass(slots=True)
class Restored:
    """What was found."""

    since: datetime
    """What happened at the gateway since then was compared."""
    payments: int = 0
    """The gateway's payments since that time."""
    unknown: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    """The orders that the database does not know, with what the gateway keeps for them in each currency."""
    open: set[str] = field(default_factory=set)
    """The open orders whose journal did not have their payment."""


async def take_up(gateway: PaymentGateway, since: datetime) -> Restored:
    """Makes the database, which was restored to the time `since`, safe to work with.

    Orders that the gateway has payments of since then, and that are unknown or have no payment in their
    journal, are looked up at the gateway before they are charged. The embedded carrier gives no number again
    that a parcel got meanwhile. If the database's newest order is older than `since`, that counts, so a time
    that is too late misses nothing. Safe to repeat. Raises the gateway's errors and database errors: run it
    again.
    """
    async with transaction() as tx:
        newest = await lost_steps.newest(tx)
    found = Restored(since if newest is None else min(since, newest))
    async for page in gateway.pages(found.since - _MARGIN):
        payments = [payment for payment in page if payment.order_id and "\0" not in payment.order_id]
        found.payments += len(payments)
        async with transaction() as tx:
            unknown, lacking = await lost_steps.note(tx, {each.order_id for each in payments}, STEP)
        found.open |= lacking
        for payment in payments:
            if payment.order_id in unknown:
                kept = found.unknown.setdefault(payment.order_id, {})
                kept[payment.currency] = kept.get(payment.currency, Decimal(0)) + payment.kept
    async with transaction() as tx:
        await shipments.skip_serials(tx, SKIPPED_SERIALS)
    return found
