"""Reads `OrderOutcome`s: the results that flows return, and that Python callers get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from saga.outcome import Compensation
from shop.orders.outcomes import OrderOutcome, StepTiming
from shop.orders.tries import TRY
from shop.settings import settings
from shop.values.money import exact

_ORDERS = text(
    "SELECT id, outcome, failing_step, reasons, undone, currency, amount_charged, amount_refunded, "
    "amount_at_risk, amount_elsewhere, submitted_at, finished_at, "
    "extract(epoch FROM finished_at - submitted_at)::float AS seconds, takeovers, flow_run_id, "
    "coalesce(CAST(content -> :try ->> 'number' AS int), 1) AS try_number, "
    "CASE WHEN outcome IS NULL AND lease_id IS NULL AND not_before > now() THEN waits_for END AS waits_for "
    "FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))"
).bindparams(**{"try": TRY})
_STEPS = text(
    "SELECT order_id, step, status, attempts, begun_at, "
    "extract(epoch FROM ended_at - begun_at)::float AS seconds FROM order_step "
    "WHERE order_id = ANY(CAST(:ids AS text[])) ORDER BY number"
)
_AMOUNTS = ("amount_charged", "amount_refunded", "amount_at_risk", "amount_elsewhere")
_OUT_OF_STOCK = text(
    "SELECT count(*) FROM customer_order WHERE outcome = 'out_of_stock' AND erased_at IS NULL "
    "AND submitted_at > now() - interval '30 days' "
    "AND EXISTS (SELECT 1 FROM jsonb_array_elements(content -> 'items') i "
    "WHERE i ->> 'product_id' = ANY(CAST(:ids AS text[])))"
)
_ENDED = text(
    "SELECT count(*) FROM customer_order WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NOT NULL"
)


async def count_out_of_stock(product_ids: Sequence[str]) -> int:
    """Returns how many orders of the last 30 days ended as out of stock and ask for one of these products."""
    async with transaction() as tx:
        return int((await tx.execute(_OUT_OF_STOCK, {"ids": list(product_ids)})).scalar_one())


def read(order_ids: Sequence[str]) -> dict[str, OrderOutcome]:
    """Returns the outcomes of these orders by id; unknown ids are missing."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, order_ids)


def count_ended(order_ids: Sequence[str]) -> int:
    """Returns how many of these orders have an outcome."""
    with sync_engine(settings().database_url).connect() as connection:
        return int(connection.execute(_ENDED, {"ids": list(order_ids)}).scalar_one())


async def read_one(order_id: str) -> OrderOutcome | None:
    """Reads one order from an event loop."""
    async with transaction() as tx:
        return (await tx.run_sync(_read, [order_id])).get(order_id)


def _read(connection: Connection, order_ids: Sequence[str]) -> dict[str, OrderOutcome]:
    ids = {"ids": list(order_ids)}
    timings: dict[str, list[StepTiming]] = {}
    for row in connection.execute(_STEPS, ids):
        timing = StepTiming(
            step=row.step,
            status=row.status,
            attempts=row.attempts,
            began_at=row.begun_at,
            seconds=row.seconds,
        )
        timings.setdefault(row.order_id, []).append(timing)
    return {
        row["id"]: _outcome(dict(row), timings.get(row["id"], []))
        for row in connection.execute(_ORDERS, ids).mappings()
    }


def _outcome(row: dict[str, Any], timings: list[StepTiming]) -> OrderOutcome:
    undone = [Compensation.model_validate(u) for u in row.pop("undone")]
    for name in _AMOUNTS:
        row[name] = exact(row[name], row["currency"])
    return OrderOutcome(order_id=row.pop("id"), undone=undone, timings=timings, **row)
