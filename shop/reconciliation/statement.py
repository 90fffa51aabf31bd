"""The gateway's statement beside our orders, in the database: memory holds one page, however many orders there are.

Comparing is set-based and coarse: whatever is not plainly in order is a suspicion. Each suspicion is then looked at closely, with
fresh eyes on both sides (`shop.reconciliation.reconcile`), so that neither an order that moves on meanwhile nor the edge of the time
that is looked at makes a false alarm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from saga.database import as_json, engine
from shop.payments.gateway import Payment, PaymentGateway

PAGE = 200
"""Suspicions looked at together."""
_MAKE_STATEMENT = text(
    "CREATE TEMPORARY TABLE gateway_statement (payment_id text PRIMARY KEY, order_id text NOT NULL, status text NOT NULL, "
    "amount numeric NOT NULL, refunded numeric NOT NULL, currency text NOT NULL)"
)
_MAKE_SUSPICION = text("CREATE TEMPORARY TABLE suspicion (order_id text PRIMARY KEY)")
_THROW_AWAY = text("DROP TABLE IF EXISTS gateway_statement, suspicion")
_NOTE = text(
    "INSERT INTO gateway_statement SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r("
    "payment_id text, order_id text, status text, amount numeric, refunded numeric, currency text) ON CONFLICT DO NOTHING"
)
# An order from before that time may have payments from before it, which the statement does not show. Only of a completed order is it
# certain that its total is a number.
_COMPARE = text(
    """
    INSERT INTO suspicion
    WITH theirs AS (
        SELECT order_id, count(*) FILTER (WHERE status = 'succeeded') AS charges, count(*) FILTER (WHERE status = 'created') AS left_over,
            count(*) FILTER (WHERE status = 'unreadable') AS unreadable,
            coalesce(sum(amount) FILTER (WHERE status = 'succeeded'), 0) AS charged, sum(refunded) AS refunded,
            min(currency) FILTER (WHERE status = 'succeeded') AS currency, max(currency) FILTER (WHERE status = 'succeeded') AS another
        FROM gateway_statement GROUP BY order_id
    )
    SELECT t.order_id FROM theirs t LEFT JOIN customer_order o ON o.id = t.order_id
    WHERE CASE
        WHEN t.unreadable > 0 THEN true
        WHEN o.id IS NULL THEN t.charges > 0
        WHEN o.outcome IS NULL THEN false
        WHEN o.submitted_at < :since OR t.left_over > 0 THEN true
        WHEN t.charged <> o.amount_charged OR t.refunded <> o.amount_refunded THEN true
        WHEN t.currency <> o.currency OR t.another <> o.currency THEN true
        WHEN o.outcome = 'completed' THEN t.charges <> 1 OR t.refunded > 0 OR t.charged <> CAST(o.content ->> 'total_amount' AS numeric)
        WHEN o.outcome = 'needs_attention' THEN t.charged - t.refunded <> o.amount_at_risk
        ELSE t.charged <> t.refunded
    END
    UNION
    SELECT o.id FROM customer_order o
    WHERE o.finished_at >= :since AND o.outcome IS NOT NULL
      AND (o.outcome = 'completed' OR o.amount_charged > 0 OR o.amount_at_risk > 0)
      AND NOT EXISTS (SELECT 1 FROM gateway_statement s WHERE s.order_id = o.id)
    UNION
    SELECT order_id FROM discrepancy WHERE accepted_at IS NULL
    """
)
_NEXT = text("SELECT order_id FROM suspicion WHERE order_id > :after ORDER BY order_id LIMIT :most")


class Statement:
    """What the gateway says has moved since a time."""

    def __init__(self, connection: AsyncConnection, since: datetime) -> None:
        self._connection, self._since = connection, since
        self.payments = 0

    async def note(self, page: Sequence[Payment]) -> None:
        """Adds a page of it."""
        # What PostgreSQL cannot store as text cannot be the id of an order of ours.
        rows: list[dict[str, Any]] = [
            {
                "payment_id": payment.id,
                "order_id": payment.order_id.replace("\0", "\ufffd"),
                "status": payment.status.value,
                "amount": payment.amount,
                "refunded": payment.amount_refunded,
                "currency": payment.currency,
            }
            for payment in page
        ]
        self.payments += len(rows)
        await self._connection.execute(_NOTE, {"rows": as_json(rows)})

    async def suspicions(self) -> AsyncIterator[list[str]]:
        """The ids of orders, ours or not, that are not plainly in order, a page at a time."""
        await self._connection.execute(text("ANALYZE gateway_statement"))
        await self._connection.execute(_COMPARE, {"since": self._since})
        after = ""
        while page := list((await self._connection.execute(_NEXT, {"after": after, "most": PAGE})).scalars()):
            yield page
            after = page[-1]


@asynccontextmanager
async def statement(gateway: PaymentGateway, since: datetime) -> AsyncIterator[Statement]:
    """Fetches it, page by page. Raises what the gateway raises."""
    async with engine().connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(_MAKE_STATEMENT)
            await connection.execute(_MAKE_SUSPICION)
            told = Statement(connection, since)
            async for page in gateway.pages(since):
                await told.note(page)
            yield told
        finally:
            await connection.execute(_THROW_AWAY)
