"""The alert rules: conditions that hold now, read from the journal. Nothing here writes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, TextClause, text

from saga import BLOCKED_SECONDS
from shop.monitoring.commands import (
    event_metrics,
    read_commands,
    read_compensations,
    read_messages,
    step_metrics,
)
from shop.monitoring.config import Monitoring
from shop.monitoring.error_codes import CARRIER, EXTERNAL, GATEWAY, INFRASTRUCTURE, INVENTORY, VERSION
from shop.monitoring.metrics import default_window
from shop.settings import Settings

ALL, REST = "all orders", "and more"
"""Subjects: the error rate over all steps; the orders beyond those that get an alert of their own."""
_PAUSE_SECONDS = 15.0
"""Minimum time in seconds that orders are blocked by the infrastructure, or by the lack of a worker of
their version, before the alert."""
_CLEARING_SHARE = 0.8
"""An error rate alert clears below this share of the threshold: without the gap it would be raised and
cleared again and again."""


class Rule(StrEnum):
    ERROR_RATE = "error_rate"
    """Share of failures among the steps, compensations and messages that ended in the window. Business
    refusals are not failures; postponed attempts are covered by EXTERNAL_UNAVAILABLE."""
    ORDER_WAITING = "order_waiting"
    """Seconds since an order without an outcome was submitted."""
    NEEDS_ATTENTION = "needs_attention"
    """Amount at risk of an order under manual review, in its currency."""
    EXTERNAL_UNAVAILABLE = "external_unavailable"
    """Orders postponed because an external system is unavailable (its circuit breaker is open)."""
    RECOVERY_BEHIND = "recovery_behind"
    """Seconds since the lease of an order expired."""


_MOST = {Rule.ORDER_WAITING: 3, Rule.NEEDS_ATTENTION: 10, Rule.RECOVERY_BEHIND: 3}
"""Limits the orders that get an alert of their own; the rest share one."""

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule whose condition holds now."""

    rule: Rule
    subject: str
    resource: str
    """Names the order or the step, for the Prefect event."""
    value: float
    threshold: float
    since: datetime | None = None
    """None: unknown; the alert begins now."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further facts for the message; no customer data."""


Open = Collection[tuple[str, str]]
"""Rule and subject of the open alerts."""

# Excludes postponed orders; EXTERNAL_UNAVAILABLE reports those.
_WAITING = f"""
    SELECT o.id, greatest(o.submitted_at, o.cancel_requested_at) AS since,
        NULL AS currency, NULL AS step, NULL AS code,
        CAST(extract(epoch FROM now() - greatest(o.submitted_at, o.cancel_requested_at)) AS float) AS value
    FROM customer_order o
    WHERE o.outcome IS NULL
      AND greatest(o.submitted_at, o.cancel_requested_at) < now() - make_interval(secs => :threshold)
      AND NOT coalesce(
          o.waits_for IS NOT NULL AND o.not_before > now() - interval '{BLOCKED_SECONDS} s', false)
      AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
"""  # noqa: S608  (a constant)
_REVIEW = """
    SELECT a.order_id AS id, a.since, a.currency, a.step, a.error_code AS code,
        CAST(a.amount_at_risk AS float) AS value
    FROM attention a WHERE a.resolved_at IS NULL AND :threshold >= 0
"""
# A deleted lease expired at least a day ago. Excludes orders whose pause is not over:
# they cannot be claimed yet.
_ABANDONED = """
    SELECT o.id, late.since, NULL AS currency, NULL AS step, NULL AS code,
        CAST(extract(epoch FROM now() - late.since) AS float) AS value
    FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id
        CROSS JOIN LATERAL (
            SELECT greatest(coalesce(l.until, now() - interval '1 day'), o.not_before) AS since) late
    WHERE o.outcome IS NULL AND o.lease_id IS NOT NULL
      AND late.since < now() - make_interval(secs => :threshold)
"""


def _ranked(query: str) -> TextClause:
    """Orders that have an open alert first, then the oldest; with the count of all."""
    return text(
        f"SELECT id, since, currency, step, code, value, count(*) OVER () AS orders FROM ({query}) broken "  # noqa: S608  (constants)
        "ORDER BY id = ANY(CAST(:open AS text[])) DESC, since, id LIMIT :most"
    )


_ORDERS = {
    Rule.ORDER_WAITING: _ranked(_WAITING),
    Rule.NEEDS_ATTENTION: _ranked(_REVIEW),
    Rule.RECOVERY_BEHIND: _ranked(_ABANDONED),
}
_NOW = text("SELECT now()")
_BLOCKED = text(
    f"""
    SELECT waits_for AS code, min(waits_since) AS since, count(*) AS orders,
        (array_agg(id ORDER BY number))[1:5] AS ids
    FROM customer_order
    WHERE outcome IS NULL AND waits_for = ANY(CAST(:codes AS text[]))
        AND (not_before > now() - interval '{BLOCKED_SECONDS} s'
            OR waits_for = ANY(CAST(:until_claimed AS text[])))
    GROUP BY waits_for
    """  # noqa: S608
)


def evaluate(connection: Connection, config: Monitoring, settings: Settings, already: Open) -> list[Breach]:
    """Evaluates every rule. `already`: the open alerts, because some thresholds for clearing differ from
    those for raising.

    Every number comes from the journal: no process keeps state.
    """
    found = list(_external(connection, settings, already))
    for rule, threshold in (
        (Rule.ORDER_WAITING, settings.alerts.waiting_minutes * 60),
        (Rule.NEEDS_ATTENTION, 0.0),
        (Rule.RECOVERY_BEHIND, settings.alerts.recovery_seconds),
    ):
        found += _orders(connection, rule, threshold, {subject for of, subject in already if of == rule})
    if config.worker_monitoring.alert_on_high_error_rate:
        found += _error_rates(connection, config, settings, already)
    return found


def _orders(connection: Connection, rule: Rule, threshold: float, already: set[str]) -> Iterator[Breach]:
    known = already - {REST}
    asked = {"threshold": threshold, "open": sorted(known), "most": _MOST[rule] + len(known) + _EXAMPLES}
    rows = connection.execute(_ORDERS[rule], asked).all()
    alone = [row for row in rows if row.id in known]
    if REST not in already:  # else each order that moves up would raise a new alert
        alone += [row for row in rows if row.id not in known][: max(0, _MOST[rule] - len(alone))]
    for row in alone:
        details = {
            "order_id": row.id,
            **{name: getattr(row, name) for name in ("currency", "step", "code") if getattr(row, name)},
        }
        yield Breach(rule, row.id, f"shop.order.{row.id}", row.value, threshold, row.since, details)
    if rows and (more := rows[0].orders - len(alone)) > 0:
        others = [row for row in rows if row not in alone]
        details = {"orders": more, "for_example": [row.id for row in others][:_EXAMPLES]}
        largest, since = (
            max((row.value for row in others), default=0.0),
            min((row.since for row in others), default=None),
        )
        yield Breach(rule, REST, f"shop.orders.{rule}", largest, threshold, since, details)


def _external(connection: Connection, settings: Settings, already: Open) -> Iterator[Breach]:
    """Finds external systems that are unavailable, from the orders that were postponed for them. A single
    pause of a circuit breaker raises no alert."""
    now: datetime = connection.execute(_NOW).scalar_one()
    blocked = {
        row.code: row
        for row in connection.execute(_BLOCKED, {"codes": list(EXTERNAL), "until_claimed": list(VERSION)})
    }
    for codes, subject, pause in (
        (GATEWAY, f"payment-gateway.{settings.payments.gateway}", settings.payments.breaker_seconds),
        (INVENTORY, "inventory-service", settings.inventory.breaker_seconds),
        (CARRIER, f"carrier.{settings.shipping.carrier}", settings.shipping.timeout_seconds),
        (INFRASTRUCTURE, "infrastructure", _PAUSE_SECONDS),
        (VERSION, "worker-of-another-version", _PAUSE_SECONDS),
    ):
        if not (rows := [blocked[code] for code in codes if code in blocked]):
            continue
        since = min(row.since for row in rows)
        if (Rule.EXTERNAL_UNAVAILABLE, subject) in already or (now - since).total_seconds() >= pause:
            orders = sum(row.orders for row in rows)
            details = {
                "orders": orders,
                "for_example": [each for row in rows for each in row.ids][:_EXAMPLES],
                "code": rows[0].code,
            }
            yield Breach(Rule.EXTERNAL_UNAVAILABLE, subject, f"shop.{subject}", orders, 0, since, details)


def _error_rates(
    connection: Connection, config: Monitoring, settings: Settings, already: Open
) -> Iterator[Breach]:
    window = default_window(config).at(connection.execute(_NOW).scalar_one())
    commands, compensations = read_commands(connection, window), read_compensations(connection, window)
    every = event_metrics(commands, compensations, read_messages(connection, window), None)
    rates: list[tuple[str, str, int, int, Mapping[str, int]]] = [
        (ALL, "shop.orders", every.total_events, every.failed, {})
    ]
    for step in step_metrics(commands, compensations):
        rates.append((step.step, f"shop.step.{step.step}", step.commands, step.failed, step.failures))
    threshold, least = config.worker_monitoring.error_rate_threshold, settings.alerts.min_commands
    for subject, resource, total, failed, failures in rates:
        rate = failed / total if total else 0.0
        known = (Rule.ERROR_RATE, subject) in already
        if (known and rate > threshold * _CLEARING_SHARE) or (total >= least and rate > threshold):
            details: dict[str, Any] = {"commands": total, "failed": failed, "window": window.name}
            if failures:  # the most frequent codes, including refusals
                details["codes"] = dict(list(failures.items())[:5])
            yield Breach(Rule.ERROR_RATE, subject, resource, rate, threshold, None, details)
