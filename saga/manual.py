"""Journal writes by people and schedules: settling by hand, expiry, repair, redaction and starting over,
while no worker holds the instance.

The caller has locked the instance, and knows that no worker writes about it. All functions take a connection
in the caller's transaction; with an asynchronous one, use `await tx.run_sync(function, ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from saga.database import as_json
from saga.store import SagaStore, sql

_BEGIN_STEP = sql(
    "INSERT INTO {journal} ({key}, step, status, undo_due) VALUES (:id, :step, 'begun', true) "
    "ON CONFLICT ({key}, step) DO UPDATE SET undo_due = true"
)
_ADD_BEGUN = sql(
    "INSERT INTO {journal} ({key}, step, status, undo_due) "
    "SELECT id, :step, 'begun', true FROM unnest(CAST(:ids AS text[])) AS i(id) "
    "ON CONFLICT ({key}, step) DO NOTHING"
)
# With a fence, whoever claims the instance reads its journal.
_RESUME = sql(
    "UPDATE {instances} SET fence = fence + 1, lease_id = NULL, not_before = NULL "
    "WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NULL"
)
_DUE = sql("SELECT step FROM {journal} WHERE {key} = :id AND undo_due ORDER BY number")
_SETTLE = sql(
    "UPDATE {journal} SET undo_status = 'done', undo_due = false, undo_result = CAST(:result AS jsonb), "
    "undo_error = NULL, undo_ended_at = now(), undo_begun_at = coalesce(undo_begun_at, now()), "
    "notes = notes || CAST(:notes AS jsonb), "
    "undo_number = coalesce(undo_number, nextval(pg_get_serial_sequence('{journal}', 'number'))) "
    "WHERE {key} = :id AND step = ANY(CAST(:steps AS text[]))"
)
_CHANGE_ERROR = sql(
    "UPDATE {journal} SET undo_error = undo_error || (SELECT coalesce(jsonb_object_agg(key, value), '{{}}') "
    "FROM jsonb_each(CAST(:changes AS jsonb)) WHERE jsonb_exists(undo_error, key)) "
    "WHERE {key} = :id AND step = :step AND undo_error IS NOT NULL"
)
# A new fence: a worker that was paused must not find that it still holds the instance.
_REVOKE = sql(
    "UPDATE {instances} SET fence = fence + 1, lease_id = NULL "
    "WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NULL"
)
_EXPIRE = sql(
    "UPDATE {journal} s SET undo_status = 'done', undo_due = false, undo_begun_at = now(), "
    "undo_ended_at = now(), undo_result = r.result "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, result jsonb) "
    "WHERE s.step = :step AND s.{key} = r.id"
)
_FORGET_STEP = sql("DELETE FROM {journal} WHERE {key} = :id AND step = :step AND NOT undo_due")
_REPLACE = sql(
    "UPDATE {instances} SET content = content || CAST(:changes AS jsonb), "
    "fence = fence + CASE WHEN fence > 0 THEN 1 ELSE 0 END WHERE id = :id AND lease_id IS NULL"
)
_TAKE_JOURNAL = sql("DELETE FROM {journal} s WHERE s.{key} = :id RETURNING to_jsonb(s)")
# Also a new fence: no worker of an earlier try may write about the instance.
_START_OVER = sql(
    "UPDATE {instances} SET content = content || CAST(:changes AS jsonb), "
    "fence = fence + 1, lease_id = NULL, status = 'received', outcome = NULL, failing_step = NULL, "
    "failure = NULL, reasons = '[]', undone = '[]', "
    "submitted_at = now(), started_at = NULL, finished_at = NULL, not_before = NULL, flow_run_id = NULL, "
    "takeovers = 0, lone_deaths = 0, taken_over_from = NULL, waits_for = NULL, waits_since = NULL, "
    "cancel_requested_at = NULL, cancel_reason = NULL, cancel_requested_by = NULL "
    "WHERE id = :id AND outcome IS NOT NULL"
)
_REOPEN = sql(
    "UPDATE {instances} SET fence = fence + 1, lease_id = NULL, outcome = NULL, finished_at = NULL, "
    "not_before = NULL, lone_deaths = CASE WHEN :forget_deaths THEN 0 ELSE lone_deaths END "
    "WHERE id = ANY(CAST(:ids AS text[])) RETURNING id"
)
# A worker may not know that its commit of the outcome succeeded: all check the fences now.
_CHECK_ALL_FENCES = sql(
    "UPDATE {leases} SET taken_from = true "
    "WHERE id IN (SELECT id FROM {leases} WHERE NOT taken_from ORDER BY id FOR NO KEY UPDATE)"
)
_READ = sql(
    "SELECT {key} AS id, step, notes, result, error, undo_result, undo_error FROM {journal} "
    "WHERE {key} = ANY(CAST(:ids AS text[])) FOR UPDATE"
)
_REDACT = sql(
    "UPDATE {journal} s SET notes = r.notes, result = CASE WHEN s.result IS NOT NULL THEN r.result END, "
    "error = CASE WHEN s.error IS NOT NULL THEN r.error END, "
    "undo_result = CASE WHEN s.undo_result IS NOT NULL THEN r.undo_result END, "
    "undo_error = CASE WHEN s.undo_error IS NOT NULL THEN r.undo_error END "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r("
    "id text, step text, notes jsonb, result jsonb, error jsonb, undo_result jsonb, undo_error jsonb) "
    "WHERE s.{key} = r.id AND s.step = r.step"
)


def begin_step(connection: Connection, store: SagaStore[Any], instance_id: str, step: str) -> None:
    """Makes the step's compensation due, whether or not the journal has the step."""
    connection.execute(_BEGIN_STEP(store), {"id": instance_id, "step": step})


def add_begun_step(
    connection: Connection, store: SagaStore[Any], instance_ids: Sequence[str], step: str
) -> None:
    """Adds the step as begun to the journals of open instances that lack it, because a restore to an earlier
    time has lost what became of it. Whoever runs them looks that up; until then its compensation is due."""
    ids = {"ids": list(instance_ids)}
    connection.execute(_ADD_BEGUN(store), {**ids, "step": step})
    connection.execute(_RESUME(store), ids)


def due_compensations(connection: Connection, store: SagaStore[Any], instance_id: str) -> list[str]:
    """Returns the steps whose compensation is due, first begun first."""
    return list(connection.execute(_DUE(store), {"id": instance_id}).scalars())


def settle(
    connection: Connection,
    store: SagaStore[Any],
    instance_id: str,
    steps: Sequence[str],
    result: Mapping[str, Any],
    *,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Records the compensations of these steps as done by a person. Adds `notes` to theirs: what must outlive
    the next compensation, which replaces the result."""
    about = {"id": instance_id, "steps": list(steps)}
    connection.execute(
        _SETTLE(store), {**about, "result": as_json(dict(result)), "notes": as_json(dict(notes or {}))}
    )


def change_error(
    connection: Connection, store: SagaStore[Any], instance_id: str, step: str, changes: Mapping[str, Any]
) -> None:
    """Changes those fields that the error of the step's compensation has, such as a counter that starts over.
    They stay so until an attempt sets them again."""
    about = {"id": instance_id, "step": step, "changes": as_json(dict(changes))}
    connection.execute(_CHANGE_ERROR(store), about)


def replace_content(
    connection: Connection,
    store: SagaStore[Any],
    instance_id: str,
    changes: Mapping[str, Any],
    *,
    again: Sequence[str] = (),
) -> None:
    """Replaces parts of the content of an instance that no worker holds; whoever claims it next reads it so.
    `again`: steps without a compensation that then run again, because their results have the former
    content."""
    connection.execute(_REPLACE(store), {"id": instance_id, "changes": as_json(dict(changes))})
    for step in again:
        connection.execute(_FORGET_STEP(store), {"id": instance_id, "step": step})


def expire(
    connection: Connection, store: SagaStore[Any], step: str, results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Records that what the step reserved has expired, by instance id with the compensation's result. Revokes
    the workers' hold on these instances; an instance that continues runs the step again."""
    connection.execute(_REVOKE(store), {"ids": list(results)})
    rows = [{"id": instance_id, "result": dict(result)} for instance_id, result in results.items()]
    connection.execute(_EXPIRE(store), {"step": step, "rows": as_json(rows)})


def start_over(
    connection: Connection, store: SagaStore[Any], instance_id: str, changes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Makes an instance that has ended begin again, as if it had been submitted now. Deletes its journal, and
    returns the deleted rows in the sequence of beginning. `changes` replace fields of its content; the
    owner's columns stay.

    The caller makes sure that no compensation is due. Raises ValueError if the instance has not ended.
    """
    connection.execute(_CHECK_ALL_FENCES(store))
    changed = connection.execute(_START_OVER(store), {"id": instance_id, "changes": as_json(dict(changes))})
    if changed.rowcount != 1:
        raise ValueError(f"instance {instance_id} has not ended, so it cannot start over")
    entries = connection.execute(_TAKE_JOURNAL(store), {"id": instance_id}).scalars()
    return sorted(entries, key=lambda entry: int(entry["number"]))


def reopen(
    connection: Connection, store: SagaStore[Any], instance_ids: Sequence[str], *, forget_deaths: bool = False
) -> list[str]:
    """Opens instances that have ended, and ends the postponement of others: they are claimed like any other,
    and the saga continues with what is still due. `forget_deaths`: also if workers died with them. Returns
    their ids."""
    connection.execute(_CHECK_ALL_FENCES(store))
    ids = {"ids": list(instance_ids), "forget_deaths": forget_deaths}
    return list(connection.execute(_REOPEN(store), ids).scalars())


def read_entries(
    connection: Connection, store: SagaStore[Any], instance_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the journal rows of the instances, and locks them: `id`, `step`, and the JSON columns."""
    return [dict(row) for row in connection.execute(_READ(store), {"ids": list(instance_ids)}).mappings()]


def redact(connection: Connection, store: SagaStore[Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the JSON columns of these entries. A column without a value stays so."""
    connection.execute(_REDACT(store), {"rows": as_json([dict(entry) for entry in entries])})
