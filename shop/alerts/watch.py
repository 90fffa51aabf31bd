"""Evaluates the rules at intervals and keeps the state of alerts: each is raised once and clears once,
however many workers evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, text

from saga.database import as_json, sync_engine
from saga.failpoints import failpoint
from shop.alerts.delivery import destinations
from shop.alerts.notices import EVENT
from shop.alerts.rules import Breach, Rule, evaluate
from shop.monitoring.config import Monitoring, monitoring
from shop.settings import Settings, settings

Phase = Literal["raised", "cleared"]
_EVALUATING = failpoint("the commit of alerts")
_CREATE_STATE = text("INSERT INTO alert_watch (id) VALUES (1) ON CONFLICT DO NOTHING")
# A worker that finds the row locked leaves the evaluation to the one that holds it.
_LOCK = text(
    "SELECT judged_at IS NULL OR judged_at <= now() - make_interval(secs => :seconds) FROM alert_watch "
    "WHERE id = 1 FOR UPDATE SKIP LOCKED"
)
_EVALUATED = text("UPDATE alert_watch SET judged_at = now() WHERE id = 1")
_PLANS = text("SELECT set_config('jit', 'off', true), set_config('work_mem', '32MB', true)")
_OPEN = text("SELECT id, rule, subject FROM alert WHERE over_at IS NULL")
_RAISE = text(
    """
    INSERT INTO alert (rule, subject, resource, since, value, threshold, details)
    SELECT r.rule, r.subject, r.resource, coalesce(r.since, now()), r.value, r.threshold, r.details
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        rule text, subject text, resource text, since timestamptz, value float, threshold float,
        details jsonb)
    ON CONFLICT (rule, subject) WHERE over_at IS NULL DO NOTHING RETURNING id
    """
)
_UPDATE = text(
    "UPDATE alert a SET value = r.value, threshold = r.threshold, details = r.details, judged_at = now() "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(rule text, subject text, value float, threshold float, details jsonb) "
    "WHERE a.rule = r.rule AND a.subject = r.subject AND a.over_at IS NULL"
)
_CLEAR = text(
    "UPDATE alert a SET over_at = now(), judged_at = now(), over_because = r.because "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, because text) "
    "WHERE a.id = r.id AND a.over_at IS NULL"
)
_NOTIFY = text(
    "INSERT INTO alert_notice (alert_id, phase, way) SELECT id, :phase, way "
    "FROM unnest(CAST(:ids AS bigint[])) AS id, unnest(CAST(:ways AS text[])) AS way "
    "ON CONFLICT DO NOTHING"
)
_TURNED_OFF = "It is no longer evaluated: worker_monitoring.{} is off"


@dataclass(frozen=True, slots=True)
class Watched:
    """What one evaluation changed."""

    evaluated: bool
    """False: alerts are turned off and none is open; another worker evaluates; or the last evaluation was
    less than `health_check_interval_seconds` ago."""
    raised: int = 0
    cleared: int = 0
    open: int = 0


def watch(config: Monitoring | None = None) -> Watched:
    """Evaluates every rule in one transaction, and records which alerts are raised and which clear, with the
    notices to be delivered.

    Where `worker_monitoring.enabled` is off nothing is evaluated, and open alerts clear. Blocks: not for an
    event loop. Raises SQLAlchemyError if the database is unavailable, and MonitoringConfigError.
    """
    config, s = config or monitoring(), settings()
    with sync_engine(s.database_url).connect() as connection, connection.begin() as running:
        if not config.worker_monitoring.enabled and connection.execute(_OPEN).first() is None:
            return Watched(evaluated=False)
        connection.execute(_CREATE_STATE)
        if not connection.execute(
            _LOCK, {"seconds": config.worker_monitoring.health_check_interval_seconds}
        ).scalar():
            return Watched(evaluated=False)
        connection.execute(_PLANS)
        watched = _write(connection, config, s)
        connection.execute(_EVALUATED)
        with _EVALUATING:
            running.commit()
    return watched


def _write(connection: Connection, config: Monitoring, s: Settings) -> Watched:
    already = {(row.rule, row.subject): int(row.id) for row in connection.execute(_OPEN)}
    breaches = evaluate(connection, config, s, already.keys()) if config.worker_monitoring.enabled else []
    new = [breach for breach in breaches if (breach.rule, breach.subject) not in already]
    still = [breach for breach in breaches if (breach.rule, breach.subject) in already]
    broken = {(breach.rule, breach.subject) for breach in breaches}
    over = [(of[0], number) for of, number in already.items() if of not in broken]
    if still:
        connection.execute(_UPDATE, {"rows": _rows(still)})
    raised = list(connection.execute(_RAISE, {"rows": _rows(new)}).scalars()) if new else []
    if over:
        because = [{"id": number, "because": _turned_off(rule, config)} for rule, number in over]
        connection.execute(_CLEAR, {"rows": as_json(because)})
    _notify(connection, raised, "raised", s)
    _notify(connection, [number for _, number in over], "cleared", s)
    return Watched(True, len(raised), len(over), len(still) + len(raised))


def _turned_off(rule: str, config: Monitoring) -> str | None:
    """Returns why the rule is no longer evaluated; None if it is."""
    if not config.worker_monitoring.enabled:
        return _TURNED_OFF.format("enabled")
    if rule == Rule.ERROR_RATE and not config.worker_monitoring.alert_on_high_error_rate:
        return _TURNED_OFF.format("alert_on_high_error_rate")
    return None


def _notify(connection: Connection, numbers: list[int], phase: Phase, s: Settings) -> None:
    ways = [EVENT, *destinations(s)]
    if numbers:
        connection.execute(_NOTIFY, {"ids": numbers, "phase": phase, "ways": ways})


def _rows(breaches: Sequence[Breach]) -> str:
    return as_json([asdict(breach) for breach in breaches])
