"""Reconciliation: finds discrepancies and repairs those that need no decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import text

from saga.clock import database_time
from saga.database import transaction
from shop.orders.outcomes import Outcome
from shop.orders.tries import TRY
from shop.payments.errors import BAD_ANSWER, PaymentError, PaymentGatewayError
from shop.payments.gateway import Payment, PaymentGateway
from shop.payments.settled import GATEWAY_AT_RISK, GATEWAY_SETTLED
from shop.reconciliation.compare import OurOrder, discrepancies_of
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.reconciliation.outstanding import remember
from shop.reconciliation.repair import (
    cancel_unconfirmed,
    refund_earlier_tries,
    refund_ended,
    refund_is_gone,
)
from shop.reconciliation.statement import statement
from shop.reconciliation.stock import check_stock
from shop.settings import settings

_CONCURRENCY = 8
_OURS = text(
    f"""
    SELECT o.id, o.outcome, o.finished_at, o.currency,
        o.amount_charged AS charged, o.amount_refunded AS refunded,
        trim_scale(greatest({GATEWAY_AT_RISK}, 0)) AS at_risk,
        CASE WHEN o.outcome = 'completed'
            THEN trim_scale(CAST(o.content ->> 'total_amount' AS numeric) - o.amount_elsewhere)
            END AS total,
        trim_scale({GATEWAY_SETTLED}) AS settled,
        CASE WHEN o.content ? :try THEN coalesce(CAST(s.notes ->> 'late' AS numeric), 0)
            + CAST(o.content -> :try ->> 'charged' AS numeric) ELSE 0 END AS earlier,
        coalesce(CAST(o.content -> :try ->> 'number' AS int), 1) AS try_number,
        s.notes ->> 'payment_id' AS payment_id, o.content -> :try -> 'payments' AS earlier_payments
    FROM customer_order o LEFT JOIN order_step s ON s.order_id = o.id AND s.step = 'process_payment'
    WHERE o.id = :id
    """  # noqa: S608  (constants)
)


async def reconcile(
    gateway: PaymentGateway, since: datetime, *, fix: bool = True
) -> AsyncIterator[Discrepancy]:
    """Compares the gateway's payments that moved since a time with our orders, and our orders with the
    gateway's payments; checks again what is still open; then checks the stock.

    Yields each discrepancy that no person has accepted, once it is known whether it was repaired. Raises the
    gateway's errors and database errors: run it again.
    """
    settled_before = await database_time() - timedelta(seconds=settings().reconciliation.grace_seconds)
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def compare(order_id: str) -> list[Discrepancy]:
        async with slots:
            for last in (False, True):
                try:
                    return await compare_order(order_id, gateway, settled_before, fix=fix)
                except PaymentGatewayError as error:
                    if error.error_code != BAD_ANSWER:
                        raise
                    if last:  # one unreadable record must not prevent reporting the others
                        return [
                            Discrepancy(
                                Kind.UNREADABLE, ours="not compared", theirs=str(error), order_id=order_id
                            )
                        ]
            return []

    async with statement(gateway, since) as loaded:
        async for page in loaded.suspicions():
            found = [
                discrepancy for each in await asyncio.gather(*map(compare, page)) for discrepancy in each
            ]
            for discrepancy in await remember(page, found):
                yield discrepancy
    async for discrepancy in check_stock():
        yield discrepancy


async def compare_order(
    order_id: str, gateway: PaymentGateway, settled_before: datetime, *, fix: bool
) -> list[Discrepancy]:
    """Compares one order with all its payments. With `fix`, repairs what needs no guessing. Raises as
    `reconcile` does."""
    found = await _compare(order_id, gateway, settled_before)
    if fix:
        found = [await _put_under_review(order_id, each, gateway) for each in found]
    if not fix or not any(discrepancy.repairable for discrepancy in found):
        return found
    remark = await _repair(order_id, found, gateway)
    # Repaired is what a second comparison no longer finds. It includes payments that moved just now.
    remaining = await _compare(order_id, gateway, datetime.max.replace(tzinfo=UTC))
    left = {(discrepancy.kind, discrepancy.currency) for discrepancy in remaining}
    reported = [
        replace(d, repaired=remark is None and (d.kind, d.currency) not in left, remark=remark)
        if d.repairable
        else d
        for d in found
    ]
    known = {(discrepancy.kind, discrepancy.currency) for discrepancy in reported}
    return [
        *reported,
        *(discrepancy for discrepancy in remaining if (discrepancy.kind, discrepancy.currency) not in known),
    ]


async def _compare(order_id: str, gateway: PaymentGateway, settled_before: datetime) -> list[Discrepancy]:
    # Our side first: an ended order does not change any more, so the gateway's answer afterwards is final.
    async with transaction() as tx:
        row = (await tx.execute(_OURS, {"id": order_id, "try": TRY})).mappings().one_or_none()
    ours, known = None, []
    if row is not None:
        fields = dict(row)
        known = [fields.pop("payment_id"), *(fields.pop("earlier_payments") or ())]
        ours = OurOrder(**{**fields, "outcome": Outcome(row["outcome"]) if row["outcome"] else None})
    # The known payments are requested by their ids: not every gateway's search goes far back.
    return discrepancies_of(
        order_id, ours, await known_payments(gateway, known).find(order_id), settled_before=settled_before
    )


async def _put_under_review(order_id: str, found: Discrepancy, gateway: PaymentGateway) -> Discrepancy:
    """Puts an order under manual review if the gateway does not have its refund. A bank may return a
    refund days later; only a person may repeat it."""
    if found.kind is Kind.REFUND_UNKNOWN_TO_GATEWAY and await refund_is_gone(order_id, gateway):
        return replace(found, remark="the order is now under manual review")
    return found


async def _repair(order_id: str, found: list[Discrepancy], gateway: PaymentGateway) -> str | None:
    """Repairs what can be repaired. Returns why it failed, or None."""
    try:
        if any(d.repairable and d.kind is Kind.CHARGED_MORE_THAN_ONCE for d in found):
            return await refund_earlier_tries(order_id, gateway)
        if any(d.repairable and d.kind is not Kind.LEFT_UNCONFIRMED for d in found):
            return await refund_ended(order_id, gateway)  # also cancels unconfirmed payments
        for discrepancy in found:
            for payment_id in discrepancy.payment_ids if discrepancy.repairable else ():
                await cancel_unconfirmed(order_id, payment_id, gateway)
    except PaymentError as error:
        return str(error)
    return None


def known_payments(gateway: PaymentGateway, payment_ids: Sequence[str | None]) -> PaymentGateway:
    """Returns the gateway with a `find` that also returns these payments of the order."""
    return cast(PaymentGateway, _WithKnownPayments(gateway, payment_ids))


class _WithKnownPayments:
    def __init__(self, gateway: PaymentGateway, payment_ids: Sequence[str | None]) -> None:
        self._gateway, self._ids = gateway, [each for each in dict.fromkeys(payment_ids) if each]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    async def find(self, order_id: str) -> list[Payment]:
        found = await self._gateway.find(order_id)
        seen = {payment.id for payment in found}
        known = [await self._gateway.get(each) for each in self._ids if each not in seen]
        return [*found, *(payment for payment in known if payment.order_id == order_id)]
