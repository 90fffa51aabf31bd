"""Comparing the books, and mending what can be mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from saga.clock import database_time
from saga.database import transaction
from shop.orders.outcomes import Outcome
from shop.payments.errors import BAD_ANSWER, PaymentError, PaymentGatewayError
from shop.payments.gateway import PaymentGateway
from shop.reconciliation.compare import OurOrder, judge
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.reconciliation.known_payments import known_payments
from shop.reconciliation.outstanding import remember
from shop.reconciliation.repair import cancel_left, refund_ended, refund_is_gone
from shop.reconciliation.statement import statement
from shop.reconciliation.stock import check_stock
from shop.settings import settings

_AT_ONCE = 8
_OURS = text(
    """
    SELECT o.id, o.outcome, o.finished_at, o.currency, o.amount_charged AS charged, o.amount_refunded AS refunded,
        o.amount_at_risk AS at_risk,
        CASE WHEN o.outcome = 'completed' THEN CAST(o.content ->> 'total_amount' AS numeric) END AS total,
        coalesce(CAST(s.undo_result ->> 'refunded_by_hand' AS numeric), 0) + coalesce(CAST(s.undo_result ->> 'written_off' AS numeric), 0)
            AS settled, s.notes ->> 'payment_id' AS payment_id
    FROM customer_order o LEFT JOIN order_step s ON s.order_id = o.id AND s.step = 'process_payment' WHERE o.id = :id
    """
)


async def reconcile(gateway: PaymentGateway, since: datetime, *, fix: bool = True) -> AsyncIterator[Discrepancy]:
    """Compares what the gateway says has moved since then with our orders, and theirs with what the gateway says, and looks again at what
    is open from before; then the stock.

    Yields each discrepancy that no person has accepted, once it is known whether it is mended. Raises what the gateway
    raises, and database trouble: run it again.
    """
    settled_before = await database_time() - timedelta(seconds=settings().reconciliation.grace_seconds)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def look(order_id: str) -> list[Discrepancy]:
        async with turn:
            for last in (False, True):
                try:
                    return await look_closely(order_id, gateway, settled_before, fix=fix)
                except PaymentGatewayError as error:
                    if error.error_code != BAD_ANSWER:
                        raise
                    if last:  # one record that makes no sense is no reason to say nothing of all the others
                        return [Discrepancy(Kind.UNREADABLE, ours="not compared", theirs=str(error), order_id=order_id)]
            return []

    async with statement(gateway, since) as told:
        async for page in told.suspicions():
            found = [discrepancy for each in await asyncio.gather(*map(look, page)) for discrepancy in each]
            for discrepancy in await remember(page, found):
                yield discrepancy
    async for discrepancy in check_stock():
        yield discrepancy


async def look_closely(order_id: str, gateway: PaymentGateway, settled_before: datetime, *, fix: bool) -> list[Discrepancy]:
    """One order against all its payments. With `fix`, mends what can be mended without guessing. Raises as `reconcile` does."""
    found = await _judge(order_id, gateway, settled_before)
    if fix:
        found = [await _to_the_desk(order_id, each, gateway) for each in found]
    if not fix or not any(discrepancy.mendable for discrepancy in found):
        return found
    remark = await _mend(order_id, found, gateway)
    # Mended is what a second look does not find any more, and no grace for what has moved just now.
    still = await _judge(order_id, gateway, datetime.max.replace(tzinfo=UTC))
    left = {(discrepancy.kind, discrepancy.currency) for discrepancy in still}
    told = [replace(d, mended=remark is None and (d.kind, d.currency) not in left, remark=remark) if d.mendable else d for d in found]
    known = {(discrepancy.kind, discrepancy.currency) for discrepancy in told}
    return [*told, *(discrepancy for discrepancy in still if (discrepancy.kind, discrepancy.currency) not in known)]


async def _judge(order_id: str, gateway: PaymentGateway, settled_before: datetime) -> list[Discrepancy]:
    # Ours first: an order that has ended does not move any more, so that what the gateway says afterwards is the end of it.
    async with transaction() as tx:
        row = (await tx.execute(_OURS, {"id": order_id})).mappings().one_or_none()
    ours, known = None, None
    if row is not None:
        fields = dict(row)
        known = fields.pop("payment_id")
        ours = OurOrder(**{**fields, "outcome": Outcome(row["outcome"]) if row["outcome"] else None})
    # One whose id is known is asked for by it: not every search goes far back.
    return judge(order_id, ours, await known_payments(gateway, [known]).find(order_id), settled_before=settled_before)


async def _to_the_desk(order_id: str, found: Discrepancy, gateway: PaymentGateway) -> Discrepancy:
    """A refund of ours that the gateway does not have (any more: a bank may send it back days later) is not made again without a person."""
    if found.kind is Kind.REFUND_UNKNOWN_TO_GATEWAY and await refund_is_gone(order_id, gateway):
        return replace(found, remark="the order needs attention now: see the desk")
    return found


async def _mend(order_id: str, found: list[Discrepancy], gateway: PaymentGateway) -> str | None:
    """Returns why it could not be done, or None."""
    try:
        if any(d.mendable and d.kind is not Kind.LEFT_UNCONFIRMED for d in found):
            return await refund_ended(order_id, gateway)  # cancels what was left, too
        for discrepancy in found:
            for payment_id in discrepancy.payment_ids if discrepancy.mendable else ():
                await cancel_left(order_id, payment_id, gateway)
    except PaymentError as error:
        return str(error)
    return None
