"""The figures of a period, for dashboard and report: a few statements over the orders and the journal."""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal

from pydantic import AwareDatetime
from sqlalchemy import text

from saga.database import transaction
from shop.monitoring.config import monitoring
from shop.monitoring.error_codes import EXTERNAL, REFUSALS, STEP_IS_POSTPONED
from shop.orders.outcomes import Outcome
from shop.settings import settings
from shop.values.frozen import Frozen

_LOW_STOCK_SHOWN = 8
"""Limits the products that are shown, lowest stock first."""
_ORDERS = text(
    """
    SELECT width_bucket(
            extract(epoch FROM finished_at - CAST(:since AS timestamptz))::float,
            0, CAST(:seconds AS float), :parts) - 1 AS part,
        outcome, count(*)::int AS orders
    FROM customer_order
    WHERE finished_at IS NOT NULL AND finished_at >= :since AND finished_at < :until
    GROUP BY 1, 2
    """
)
_ACTIVE = text(
    "SELECT EXISTS (SELECT 1 FROM order_step WHERE ended_at > now() - make_interval(secs => :seconds))"
)
_LATENCY = text(
    """
    SELECT width_bucket(
            extract(epoch FROM finished_at - CAST(:since AS timestamptz))::float,
            0, CAST(:seconds AS float), :parts) - 1 AS part,
        percentile_cont(ARRAY[0.5, 0.95])
            WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - submitted_at)::float) AS seconds
    FROM customer_order
    WHERE finished_at IS NOT NULL AND finished_at >= :since AND finished_at < :until
    GROUP BY GROUPING SETS ((1), ())
    """
)
_MONEY = text(
    """
    SELECT currency, sum(amount_charged) AS charged, sum(amount_refunded) AS refunded,
        sum(amount_at_risk) AS at_risk
    FROM customer_order WHERE finished_at IS NOT NULL AND finished_at >= :since AND finished_at < :until
    GROUP BY currency HAVING sum(amount_charged) > 0 OR sum(amount_at_risk) > 0 ORDER BY currency
    """
)
_STEPS = text(
    f"""
    SELECT step, count(*)::int AS ended,
        count(*) FILTER (
            WHERE status = 'failed' AND NOT coalesce(remark = ANY (CAST(:refusals AS text[])), false)
        )::int AS failed,
        count(*) FILTER (
            WHERE status = 'failed' AND remark = ANY (CAST(:refusals AS text[])))::int AS refused,
        count(*) FILTER (WHERE attempts > 1)::int AS retried,
        count(*) FILTER (WHERE undo_status = 'done')::int AS undone
    FROM order_step s WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until
        AND NOT (status = 'failed' AND EXISTS (SELECT 1 FROM customer_order o WHERE {STEP_IS_POSTPONED}))
    GROUP BY step
    """  # noqa: S608  (constants)
)
_STOCK = text(
    "SELECT id AS product_id, name, on_hand - reserved AS available, received FROM product "
    "WHERE (on_hand - reserved) * 5 <= received ORDER BY (on_hand - reserved), id LIMIT :most"
)
_WAITING = text(
    "SELECT count(*)::int AS orders, extract(epoch FROM now() - min(submitted_at))::float AS oldest "
    "FROM customer_order WHERE outcome IS NULL"
)


class Money(Frozen):
    """Sums in one currency over the orders that ended in the period."""

    currency: str
    charged: Decimal
    refunded: Decimal
    at_risk: Decimal


class StepFigures(Frozen):
    """One step in the period, without attempts that were postponed for an external system."""

    step: str
    ended: int
    failed: int
    refused: int = 0
    """Business refusals, such as a declined card: not failures."""
    retried: int
    undone: int

    @property
    def error_rate(self) -> float:
        """Between 0 and 1."""
        return self.failed / self.ended if self.ended else 0.0


class LowStock(Frozen):
    """A product of which a fifth or less is left. `available` is not reserved."""

    product_id: str
    name: str
    available: int
    received: int


class Figures(Frozen):
    """From `since` (inclusive) to `until` (exclusive), in equal parts. Latency is from submission to outcome
    in seconds; None where nothing ended. No customer data."""

    since: AwareDatetime
    until: AwareDatetime
    ended: dict[Outcome, list[int]]
    """Orders that ended, by outcome, for each part."""
    p50: list[float | None]
    p95: list[float | None]
    p50_overall: float | None = None
    p95_overall: float | None = None
    money: list[Money]
    steps: list[StepFigures]
    low_stock: list[LowStock] | None
    """Current stock. None: an inventory service has it."""
    waiting: int
    """Orders without an outcome, now."""
    oldest_seconds: float | None
    bad_rate: float = 0.05
    """Error rates above it are shown as bad: `error_rate_threshold` of the monitoring configuration."""

    @property
    def total(self) -> int:
        return sum(map(sum, self.ended.values()))

    @property
    def part_seconds(self) -> float:
        return (self.until - self.since).total_seconds() / max(1, len(self.p50))


async def is_active(seconds: float) -> bool:
    """Returns whether any step has ended in this time."""
    async with transaction() as tx:
        return bool((await tx.execute(_ACTIVE, {"seconds": seconds})).scalar())


async def read_figures(since: datetime, until: datetime, *, parts: int = 60) -> Figures:
    """Reads the figures of the period. Raises ValueError if it is empty."""
    seconds = (until - since).total_seconds()
    if seconds <= 0 or parts < 1:
        raise ValueError("the period is empty: `until` must be after `since`")
    asked = {"since": since, "until": until, "seconds": seconds, "parts": parts}
    times = {"since": since, "until": until}
    async with transaction(seconds=math.inf) as tx:  # there may be millions of rows
        orders = (await tx.execute(_ORDERS, asked)).all()
        latency = (await tx.execute(_LATENCY, asked)).all()
        money = (await tx.execute(_MONEY, times)).mappings().all()
        codes = {"refusals": sorted(REFUSALS), "external": list(EXTERNAL)}
        steps = (await tx.execute(_STEPS, {**times, **codes})).mappings().all()
        stock = (await tx.execute(_STOCK, {"most": _LOW_STOCK_SHOWN})).mappings().all()
        waiting = (await tx.execute(_WAITING)).one()
    ended = {outcome: [0] * parts for outcome in Outcome}
    for part, outcome, count in orders:
        ended[Outcome(outcome)][min(part, parts - 1)] += count
    # the row without a part is over all; without any order it has no value
    by_part = {
        None if part is None else min(part, parts - 1): each for part, each in latency if each is not None
    }
    overall = by_part.pop(None, (None, None))
    return Figures(
        since=since,
        until=until,
        ended={outcome: counts for outcome, counts in ended.items() if any(counts)},
        p50=[by_part.get(part, (None, None))[0] for part in range(parts)],
        p95=[by_part.get(part, (None, None))[1] for part in range(parts)],
        p50_overall=overall[0],
        p95_overall=overall[1],
        money=[Money(**row) for row in money],
        steps=[StepFigures(**row) for row in steps],
        low_stock=None if settings().inventory.service_url else [LowStock(**row) for row in stock],
        waiting=waiting.orders,
        oldest_seconds=waiting.oldest,
        bad_rate=monitoring().worker_monitoring.error_rate_threshold,
    )
