"""Judging, once in a while, and keeping each alert's state: it begins once and is over once, however many workers judge at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from shop.alerts.rules import Breach, Rule, judge, subjects
from shop.database import as_json, sync_engine
from shop.monitoring.config import Monitoring, monitoring
from shop.points import effect
from shop.settings import Settings, settings

Phase = Literal["raised", "cleared"]
_JUDGING = effect("the commit of alerts")
_MAKE = text("INSERT INTO alert_watch (id) VALUES (1) ON CONFLICT DO NOTHING")
# Whoever judges at the same time leaves it to the one that does already.
_TURN = text(
    "SELECT judged_at IS NULL OR judged_at <= now() - make_interval(secs => :seconds) FROM alert_watch WHERE id = 1 FOR UPDATE SKIP LOCKED"
)
_JUDGED = text("UPDATE alert_watch SET judged_at = now() WHERE id = 1")
_PLANS = text("SELECT set_config('jit', 'off', true), set_config('work_mem', '32MB', true)")
_OPEN = text("SELECT id, rule, subject FROM alert WHERE over_at IS NULL")
_RAISE = text(
    """
    INSERT INTO alert (rule, subject, resource, since, value, threshold, details)
    SELECT r.rule, r.subject, r.resource, coalesce(r.since, now()), r.value, r.threshold, r.details
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        rule text, subject text, resource text, since timestamptz, value float, threshold float, details jsonb)
    ON CONFLICT (rule, subject) WHERE over_at IS NULL DO NOTHING RETURNING id
    """
)
_STILL = text(
    "UPDATE alert a SET value = r.value, threshold = r.threshold, details = r.details, judged_at = now() "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(rule text, subject text, value float, threshold float, details jsonb) "
    "WHERE a.rule = r.rule AND a.subject = r.subject AND a.over_at IS NULL"
)
_OVER = text(
    "UPDATE alert a SET over_at = now(), judged_at = now(), over_because = r.because "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, because text) WHERE a.id = r.id AND a.over_at IS NULL"
)
_TELL = text(
    "INSERT INTO alert_notice (alert_id, phase, way) SELECT id, :phase, way FROM unnest(CAST(:ids AS bigint[])) AS id, "
    "unnest(CAST(:ways AS text[])) AS way ON CONFLICT DO NOTHING"
)
_NOT_WATCHED = "it is not watched any more: worker_monitoring.{} is off"


@dataclass(frozen=True, slots=True)
class Watched:
    """What one judgement changed."""

    judged: bool
    """False: turned off, with nothing left to close; somebody else is at it; or it was judged less than `health_check_interval_seconds`
    ago."""
    raised: int = 0
    cleared: int = 0
    open: int = 0


def watch(config: Monitoring | None = None) -> Watched:
    """Judges every rule in one transaction, and writes down which alerts begin and which are over, with the notices that this makes due.

    Where `worker_monitoring.enabled` is off nothing is judged, and what is open is over. Not from an event loop: it waits for the database.
    Raises SQLAlchemyError if that is away, and MonitoringConfigError.
    """
    config, s = config or monitoring(), settings()
    with sync_engine(s.database_url).connect() as connection, connection.begin() as running:
        if not config.worker_monitoring.enabled and connection.execute(_OPEN).first() is None:
            return Watched(judged=False)
        connection.execute(_MAKE)
        if not connection.execute(_TURN, {"seconds": config.worker_monitoring.health_check_interval_seconds}).scalar():
            return Watched(judged=False)
        connection.execute(_PLANS)
        watched = _write(connection, config, s)
        connection.execute(_JUDGED)
        with _JUDGING:
            running.commit()
    return watched


def _write(connection: Connection, config: Monitoring, s: Settings) -> Watched:
    already = {(row.rule, row.subject): int(row.id) for row in connection.execute(_OPEN)}
    breaches = judge(connection, config, s, already.keys()) if config.worker_monitoring.enabled else []
    new = [breach for breach in breaches if (breach.rule, breach.subject) not in already]
    still = [breach for breach in breaches if (breach.rule, breach.subject) in already]
    over = [(rule, number) for (rule, subject), number in already.items() if (rule, subject) not in subjects(breaches)]
    if still:
        connection.execute(_STILL, {"rows": _rows(still)})
    raised = list(connection.execute(_RAISE, {"rows": _rows(new)}).scalars()) if new else []
    if over:
        because = [{"id": number, "because": _turned_off(rule, config)} for rule, number in over]
        connection.execute(_OVER, {"rows": as_json(because)})
    _tell(connection, raised, "raised", s)
    _tell(connection, [number for _, number in over], "cleared", s)
    return Watched(True, len(raised), len(over), len(still) + len(raised))


def _turned_off(rule: str, config: Monitoring) -> str | None:
    """Why nobody looks any more whether the rule is broken, if that is so."""
    if not config.worker_monitoring.enabled:
        return _NOT_WATCHED.format("enabled")
    if rule == Rule.ERROR_RATE and not config.worker_monitoring.alert_on_high_error_rate:
        return _NOT_WATCHED.format("alert_on_high_error_rate")
    return None


def _tell(connection: Connection, numbers: list[int], phase: Phase, s: Settings) -> None:
    ways = ["event", "mail", *(["webhook"] if s.alert_webhook_url else [])]
    if numbers:
        connection.execute(_TELL, {"ids": numbers, "phase": phase, "ways": ways})


def _rows(breaches: Sequence[Breach]) -> str:
    rows: list[dict[str, Any]] = [
        {
            "rule": breach.rule,
            "subject": breach.subject,
            "resource": breach.resource,
            "since": breach.since,
            "value": breach.value,
            "threshold": breach.threshold,
            "details": breach.details,
        }
        for breach in breaches
    ]
    return as_json(rows)
