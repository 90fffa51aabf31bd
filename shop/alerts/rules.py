"""The rules: what is wrong just now, read from the journal. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, TextClause, text

from shop.ending import LAST_SECONDS
from shop.monitoring.commands import read_commands, read_compensations, read_messages
from shop.monitoring.config import Monitoring
from shop.monitoring.events import event_metrics
from shop.monitoring.metrics import default_window
from shop.monitoring.put_off import AWAY, CARRIER_AWAY, GATEWAY_AWAY, INFRASTRUCTURE_AWAY, INVENTORY_AWAY, VERSION_AWAY
from shop.monitoring.steps import step_metrics
from shop.settings import Settings

ALL, REST = "all orders", "and more"
"""Subjects: of the error rate over all steps; of the orders that get no alert of their own, because there are too many."""
_PAUSE_SECONDS = 15.0
"""How long an order may wait for the infrastructure, or for a worker of another version, before the alert."""
_EASED = 0.8
"""An error rate that once was too high is over when it is below this share of the threshold: else it would come and go."""


class Rule(StrEnum):
    ERROR_RATE = "error_rate"
    """Share of what ended in the window and failed. A business "no" is no failure, nor is what was put off, which OUTSIDE_AWAY tells of."""
    ORDER_WAITING = "order_waiting"
    """Seconds that an order has been without an outcome."""
    NEEDS_ATTENTION = "needs_attention"
    """Amount at risk of an order on the desk, in its currency."""
    OUTSIDE_AWAY = "outside_away"
    """Orders that were put off, because what they need is left alone (an open circuit)."""
    RECOVERY_BEHIND = "recovery_behind"
    """Seconds since the lease of an order ran out."""


_MOST = {Rule.ORDER_WAITING: 3, Rule.NEEDS_ATTENTION: 10, Rule.RECOVERY_BEHIND: 3}
"""So many orders get an alert of their own; what comes on top of them shares one."""

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that is broken just now."""

    rule: Rule
    subject: str
    resource: str
    """Names the order or the step, for the Prefect event."""
    value: float
    threshold: float
    since: datetime | None = None
    """None: it cannot be told; now."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else there is to say; nothing of a customer."""


Open = Collection[tuple[str, str]]
"""Rule and subject of the alerts that are not over."""

# What is put off for something outside waits for that, and is told of there.
_WAITING = f"""
    SELECT o.id, greatest(o.submitted_at, o.cancel_requested_at) AS since, NULL AS currency, NULL AS step, NULL AS code,
        CAST(extract(epoch FROM now() - greatest(o.submitted_at, o.cancel_requested_at)) AS float) AS value
    FROM customer_order o
    WHERE o.outcome IS NULL AND greatest(o.submitted_at, o.cancel_requested_at) < now() - make_interval(secs => :threshold)
      AND NOT coalesce(o.waits_for IS NOT NULL AND o.not_before > now() - interval '{LAST_SECONDS} s', false)
      AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
"""  # noqa: S608  (a constant)
_DESK = """
    SELECT a.order_id AS id, a.since, a.currency, a.step, a.error_code AS code, CAST(a.amount_at_risk AS float) AS value
    FROM attention a WHERE a.resolved_at IS NULL AND :threshold >= 0
"""
# A deleted lease expired at least a day ago. Excludes orders whose pause is not over: they cannot be claimed yet.
_LEFT = """
    SELECT o.id, late.since, NULL AS currency, NULL AS step, NULL AS code, CAST(extract(epoch FROM now() - late.since) AS float) AS value
    FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id
        CROSS JOIN LATERAL (SELECT greatest(coalesce(l.until, now() - interval '1 day'), o.not_before) AS since) late
    WHERE o.outcome IS NULL AND o.lease_id IS NOT NULL AND late.since < now() - make_interval(secs => :threshold)
"""


def _ranked(query: str) -> TextClause:
    """Those that have an alert first, then the oldest; and how many there are."""
    return text(
        f"SELECT id, since, currency, step, code, value, count(*) OVER () AS orders FROM ({query}) broken "  # noqa: S608  (constants)
        "ORDER BY id = ANY(CAST(:open AS text[])) DESC, since, id LIMIT :most"
    )


_ORDERS = {Rule.ORDER_WAITING: _ranked(_WAITING), Rule.NEEDS_ATTENTION: _ranked(_DESK), Rule.RECOVERY_BEHIND: _ranked(_LEFT)}
_NOW = text("SELECT now()")
_AWAY = text(
    f"""
    SELECT waits_for AS code, min(waits_since) AS since, count(*) AS orders, (array_agg(id ORDER BY number))[1:5] AS ids
    FROM customer_order
    WHERE outcome IS NULL AND waits_for = ANY(CAST(:codes AS text[]))
        AND (not_before > now() - interval '{LAST_SECONDS} s' OR waits_for = ANY(CAST(:until_claimed AS text[])))
    GROUP BY waits_for
    """  # noqa: S608
)


def judge(connection: Connection, config: Monitoring, settings: Settings, already: Open) -> list[Breach]:
    """Everything that is wrong just now. `already`: the alerts that are not over, for what counts as over differs from what begins one.

    Every number is of the journal's: no process has to remember anything.
    """
    found = list(_outside(connection, settings, already))
    for rule, threshold in (
        (Rule.ORDER_WAITING, settings.alert_waiting_minutes * 60),
        (Rule.NEEDS_ATTENTION, 0.0),
        (Rule.RECOVERY_BEHIND, settings.alert_recovery_seconds),
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
    if REST not in already:  # else each that moves up would be told of once more
        alone += [row for row in rows if row.id not in known][: max(0, _MOST[rule] - len(alone))]
    for row in alone:
        details = {"order_id": row.id, **{name: getattr(row, name) for name in ("currency", "step", "code") if getattr(row, name)}}
        yield Breach(rule, row.id, f"shop.order.{row.id}", row.value, threshold, row.since, details)
    if rows and (more := rows[0].orders - len(alone)) > 0:
        others = [row for row in rows if row not in alone]
        details = {"orders": more, "for_example": [row.id for row in others][:_EXAMPLES]}
        worst, since = max((row.value for row in others), default=0.0), min((row.since for row in others), default=None)
        yield Breach(rule, REST, f"shop.orders.{rule}", worst, threshold, since, details)


def _outside(connection: Connection, settings: Settings, already: Open) -> Iterator[Breach]:
    """Orders tell what is away: each process finds out by itself, and puts off the orders that need it. A pause that one more try ends is
    no alert."""
    now: datetime = connection.execute(_NOW).scalar_one()
    away = {row.code: row for row in connection.execute(_AWAY, {"codes": list(AWAY), "until_claimed": list(VERSION_AWAY)})}
    for codes, subject, pause in (
        (GATEWAY_AWAY, f"payment-gateway.{settings.payment_gateway}", settings.payment_breaker_seconds),
        (INVENTORY_AWAY, "inventory-service", settings.inventory_breaker_seconds),
        (CARRIER_AWAY, f"carrier.{settings.carrier}", settings.carrier_timeout_seconds),
        (INFRASTRUCTURE_AWAY, "infrastructure", _PAUSE_SECONDS),
        (VERSION_AWAY, "worker-of-another-version", _PAUSE_SECONDS),
    ):
        if not (rows := [away[code] for code in codes if code in away]):
            continue
        since = min(row.since for row in rows)
        if (Rule.OUTSIDE_AWAY, subject) in already or (now - since).total_seconds() >= pause:
            orders = sum(row.orders for row in rows)
            details = {"orders": orders, "for_example": [each for row in rows for each in row.ids][:_EXAMPLES], "code": rows[0].code}
            yield Breach(Rule.OUTSIDE_AWAY, subject, f"shop.{subject}", orders, 0, since, details)


def _error_rates(connection: Connection, config: Monitoring, settings: Settings, already: Open) -> Iterator[Breach]:
    window = default_window(config).at(connection.execute(_NOW).scalar_one())
    commands, compensations = read_commands(connection, window), read_compensations(connection, window)
    every = event_metrics(commands, compensations, read_messages(connection, window), None)
    judged: list[tuple[str, str, int, int, Mapping[str, int]]] = [(ALL, "shop.orders", every.total_events, every.failed, {})]
    for step in step_metrics(commands, compensations):
        judged.append((step.step, f"shop.step.{step.step}", step.commands, step.failed, step.failures))
    threshold, least = config.worker_monitoring.error_rate_threshold, settings.alert_min_commands
    for subject, resource, total, failed, failures in judged:
        rate = failed / total if total else 0.0
        known = (Rule.ERROR_RATE, subject) in already
        if (known and rate > threshold * _EASED) or (total >= least and rate > threshold):
            details = {"commands": total, "failed": failed, "window": window.name, **_most_frequent(failures)}
            yield Breach(Rule.ERROR_RATE, subject, resource, rate, threshold, None, details)


def _most_frequent(failures: Mapping[str, int]) -> dict[str, Any]:
    """The codes, refusals among them."""
    return {"codes": dict(list(failures.items())[:5])} if failures else {}


def subjects(breaches: Sequence[Breach]) -> set[tuple[str, str]]:
    return {(breach.rule, breach.subject) for breach in breaches}
