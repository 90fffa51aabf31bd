"""Business metrics: outcomes of orders, and money that is owed or at risk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from shop.confirmation.confirmation import TEMPLATE
from shop.inventory.errors import OutOfStock
from shop.monitoring.buckets import Durations, durations
from shop.monitoring.commands import Counted, bucket_counts, share, that_ended, total
from shop.monitoring.window import Window
from shop.notifications.stored import CONFIRMATION_STEP
from shop.orders.outcomes import Outcome
from shop.payments import charge
from shop.values.frozen import Frozen

REASONS_READ = 5000
"""Limits the confirmation warnings that are read, the latest of the window."""
_ENDED = text(
    "SELECT outcome, currency, cell, count(*) AS orders, "
    "sum(amount_charged) AS charged, sum(amount_refunded) AS refunded FROM customer_order "
    "WHERE finished_at IS NOT NULL AND finished_at >= :since AND finished_at < :until "
    "AND outcome IS NOT NULL GROUP BY outcome, currency, cell"
)
_OPEN = text(
    "SELECT count(*) AS open, count(*) FILTER (WHERE lease_id IS NULL) AS waiting, "
    "count(*) FILTER (WHERE failure IS NOT NULL) AS undoing FROM customer_order WHERE outcome IS NULL"
)
# Orders under manual review do not wait for a worker, not even while they are retried.
_OLDEST = text(
    """
    SELECT o.id, o.submitted_at, o.status,
        CAST(extract(epoch FROM now() - o.submitted_at) AS float) AS seconds,
        o.lease_id IS NOT NULL AS held
    FROM customer_order o
    WHERE o.outcome IS NULL
      AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
    ORDER BY o.number LIMIT 1
    """
)
_REVIEW = text(
    "SELECT o.currency, count(*) AS orders, sum(o.amount_at_risk) AS at_risk, "
    "count(*) FILTER (WHERE o.amount_at_risk > 0) AS owed_orders "
    "FROM attention a JOIN customer_order o ON o.id = a.order_id "
    "WHERE a.resolved_at IS NULL GROUP BY o.currency"
)
# A charge whose result is unclear counts as made.
BEING_REFUNDED = """
    SELECT o.content ->> 'currency' AS currency, count(*) AS orders,
        sum(coalesce(CAST(s.result ->> 'amount_charged' AS numeric),
            CASE WHEN o.content ->> 'total_amount' ~ '^[0-9]{1,14}([.][0-9]{1,6})?$'
                THEN CAST(o.content ->> 'total_amount' AS numeric) ELSE 0 END)) AS amount
    FROM customer_order o JOIN order_step s ON s.order_id = o.id AND s.step = :step
    WHERE o.outcome IS NULL AND o.failure IS NOT NULL AND s.undo_due
      AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
    GROUP BY 1
"""
"""Refunds in progress, by currency. Takes `step`: the one that charges."""
_REASONS = text(
    """
    SELECT reason, count(*) AS confirmations FROM (
        SELECT result -> 'validation_warnings' AS warnings FROM order_step
        WHERE (result -> 'validation_warnings') <> '[]'::jsonb AND ended_at >= :since AND ended_at < :until
        ORDER BY ended_at DESC LIMIT :most
    ) latest, LATERAL (
        SELECT DISTINCT left(value, 120) AS reason
        FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(warnings) = 'array' THEN warnings ELSE '[]' END)
    ) each
    GROUP BY reason ORDER BY confirmations DESC, reason LIMIT 20
    """
)


class Money(Frozen):
    """Amounts in one currency."""

    charged: Decimal = Decimal(0)
    """From orders that ended in the window; so is `refunded`."""
    refunded: Decimal = Decimal(0)
    at_risk: Decimal = Decimal(0)
    """Now: orders under manual review, whose compensation failed."""
    refunds_owed: Decimal = Decimal(0)
    """Now: `at_risk`, and refunds in progress."""


class WaitingOrder(Frozen):
    """The oldest order without an outcome."""

    id: str
    submitted_at: datetime
    seconds: float
    status: str
    held: bool
    """Whether a worker holds it, or held it when it died."""


class Confirmations(Frozen):
    """The writers of the confirmations in the window."""

    by_writer: dict[str, int]
    """`template`, or the language model's name."""
    by_template: int
    by_model: int
    reasons: dict[str, int]
    """Why a language model's text was rejected or requested again: the twenty most frequent reasons of the
    latest `REASONS_READ`."""


class BusinessMetrics(Frozen):
    """Figures for the shop's owner."""

    ended: int
    orders: dict[str, int]
    """Orders that ended in the window, by outcome; every outcome is included."""
    completed_rate: float | None
    latency: Durations
    """From submission to outcome."""
    open: int
    """Now, without an outcome."""
    waiting: int
    """Of those, held by no worker."""
    being_undone: int
    oldest_waiting: WaitingOrder | None
    """Without orders under manual review: they wait for a person."""
    needs_attention: int
    """Now under manual review."""
    refunds_owed: int
    """Orders whose money is to be refunded, now: under manual review, or in progress."""
    money: dict[str, Money]
    compensation_latency: Durations
    oversell_attempts: int
    """Orders in the window that requested more than was in stock; nothing was reserved for them."""
    confirmations: Confirmations


def business_metrics(
    connection: Connection, window: Window, commands: Sequence[Counted], compensations: Sequence[Counted]
) -> BusinessMetrics:
    """Reads and adds up the metrics. Amounts are per currency and never added across currencies."""
    ended = connection.execute(_ENDED, window.bounds).all()
    outcomes: Counter[str] = Counter(dict.fromkeys(map(str, Outcome), 0))
    took: Counter[int] = Counter()
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in ended:
        outcomes[row.outcome] += row.orders
        took[row.cell] += row.orders
        sums[row.currency]["charged"] += row.charged
        sums[row.currency]["refunded"] += row.refunded
    review = connection.execute(_REVIEW).all()
    returning = connection.execute(text(BEING_REFUNDED), {"step": charge.STEP}).all()
    for row in review:
        sums[row.currency]["at_risk"] += row.at_risk
        sums[row.currency]["refunds_owed"] += row.at_risk
    for row in returning:
        sums[row.currency or "USD"]["refunds_owed"] += row.amount
    now = connection.execute(_OPEN).one()
    oldest = connection.execute(_OLDEST).mappings().first()
    finished = sum(outcomes.values())
    return BusinessMetrics(
        ended=finished,
        orders=dict(outcomes),
        completed_rate=share(outcomes[Outcome.COMPLETED], finished),
        latency=durations(took),
        open=now.open,
        waiting=now.waiting,
        being_undone=now.undoing,
        oldest_waiting=WaitingOrder(**oldest) if oldest else None,
        needs_attention=sum(row.orders for row in review),
        refunds_owed=sum(row.owed_orders for row in review) + sum(row.orders for row in returning),
        money={currency: Money(**_trimmed(amounts)) for currency, amounts in sorted(sums.items())},
        compensation_latency=durations(bucket_counts(that_ended(compensations))),
        oversell_attempts=total(
            each for each in commands if not each.done and each.remark == OutOfStock.code
        ),
        confirmations=_confirmations(connection, window, commands),
    )


def _confirmations(connection: Connection, window: Window, commands: Sequence[Counted]) -> Confirmations:
    writers: Counter[str] = Counter()
    for each in commands:
        if each.step == CONFIRMATION_STEP and each.done:
            writers[each.remark or "unknown"] += each.commands
    reasons = connection.execute(_REASONS, {**window.bounds, "most": REASONS_READ})
    return Confirmations(
        by_writer=dict(writers.most_common()),
        by_template=writers[TEMPLATE],
        by_model=sum(writers.values()) - writers[TEMPLATE],
        reasons={row.reason: row.confirmations for row in reasons},
    )


def _trimmed(amounts: dict[str, Decimal]) -> dict[str, Any]:
    """Trims the columns' six decimals to those that an amount needs, at least two."""
    return {
        name: amount.quantize(Decimal("0.01")) if amount == amount.quantize(Decimal("0.01")) else amount
        for name, amount in amounts.items()
    }
