"""Loads the gateway's statement into a temporary table and selects the orders to compare closely. Memory
holds one page, however many orders there are.

The comparison in SQL is coarse: it selects every order that is not plainly in order.
`shop.reconciliation.reconcile` then reads both sides of each afresh, so that neither an order that moves
meanwhile nor the edge of the time window raises a false alarm.
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
"""Number of suspected orders that are compared together."""
_CREATE_STATEMENT = text(
    "CREATE TEMPORARY TABLE gateway_statement (payment_id text PRIMARY KEY, order_id text NOT NULL, "
    "status text NOT NULL, amount numeric NOT NULL, refunded numeric NOT NULL, currency text NOT NULL)"
)
_CREATE_SUSPICION = text("CREATE TEMPORARY TABLE suspicion (order_id text PRIMARY KEY)")
_DROP = text("DROP TABLE IF EXISTS gateway_statement, suspicion")
_ADD = text(
    "INSERT INTO gateway_statement SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r("
    "payment_id text, order_id text, status text, amount numeric, refunded numeric, currency text) "
    "ON CONFLICT DO NOTHING"
)
# An order from before `since` may have payments from before it, which the statement does not have. Only a
# completed order's total is certain to be a number.
_COMPARE = text(
    """
    INSERT INTO suspicion
    WITH theirs AS (
        SELECT order_id, count(*) FILTER (WHERE status = 'succeeded') AS charges,
            count(*) FILTER (WHERE status = 'created') AS left_over,
            count(*) FILTER (WHERE status = 'unreadable') AS unreadable,
            coalesce(sum(amount) FILTER (WHERE status = 'succeeded'), 0) AS charged,
            sum(refunded) AS refunded,
            min(currency) FILTER (WHERE status = 'succeeded') AS currency,
            max(currency) FILTER (WHERE status = 'succeeded') AS another
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
        WHEN o.outcome = 'completed'
            THEN t.charges <> 1 OR t.refunded > 0
                OR t.charged <> CAST(o.content ->> 'total_amount' AS numeric) - o.amount_elsewhere
        WHEN o.outcome = 'needs_attention'
            THEN t.charged - t.refunded <> o.amount_at_risk - o.amount_elsewhere
                OR EXISTS (SELECT 1 FROM order_step s WHERE s.order_id = o.id
                    AND s.step = 'process_payment' AND s.notes ? 'settled')
        ELSE t.charged <> t.refunded
    END
    UNION
    SELECT o.id FROM customer_order o
    WHERE o.finished_at >= :since AND o.outcome IS NOT NULL
      AND (o.amount_charged > 0 OR o.amount_at_risk > o.amount_elsewhere OR o.outcome = 'completed'
          AND o.amount_elsewhere <> CAST(o.content ->> 'total_amount' AS numeric))
      AND NOT EXISTS (SELECT 1 FROM gateway_statement s WHERE s.order_id = o.id)
    UNION
    SELECT order_id FROM discrepancy WHERE accepted_at IS NULL
    """
)
_NEXT = text("SELECT order_id FROM suspicion WHERE order_id > :after ORDER BY order_id LIMIT :most")


class Statement:
    """The gateway's payments that moved since a time."""

    def __init__(self, connection: AsyncConnection, since: datetime) -> None:
        self._connection, self._since = connection, since
        self.payments = 0

    async def add(self, page: Sequence[Payment]) -> None:
        """Adds a page of payments."""
        # An id that PostgreSQL cannot store as text is not one of our orders'.
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
        await self._connection.execute(_ADD, {"rows": as_json(rows)})

    async def suspicions(self) -> AsyncIterator[list[str]]:
        """Yields pages of ids of orders, ours or not, that are not plainly in order."""
        await self._connection.execute(text("ANALYZE gateway_statement"))
        await self._connection.execute(_COMPARE, {"since": self._since})
        after = ""
        while page := list((await self._connection.execute(_NEXT, {"after": after, "most": PAGE})).scalars()):
            yield page
            after = page[-1]


@asynccontextmanager
async def statement(gateway: PaymentGateway, since: datetime) -> AsyncIterator[Statement]:
    """Fetches the statement page by page. Raises the gateway's errors."""
    async with engine().connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(_CREATE_STATEMENT)
            await connection.execute(_CREATE_SUSPICION)
            loaded = Statement(connection, since)
            async for page in gateway.pages(since):
                await loaded.add(page)
            yield loaded
        finally:
            await connection.execute(_DROP)
