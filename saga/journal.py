"""The journal: for each instance which steps were begun, what they produced, and what was compensated.

Every write happens in the caller's transaction, after `verify_ownership` has locked the worker's lease, which
prevents claims of its instances, and has compared their fences if some may have been claimed before. An
instance that another worker has claimed is marked `lost` and left out. Only this
module and `saga.manual` write the journal's table.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saga.database import Tx, after_commit, as_json
from saga.errors import SagaCancelled
from saga.instance import Entry, Instance
from saga.store import sql

_LOAD = sql(
    "SELECT {key} AS instance_id, step, status, number, attempts, notes, result, error, "
    "undo_due, undo_status, undo_number, undo_attempts, undo_result, undo_error "
    "FROM {journal} WHERE {key} = ANY(CAST(:ids AS text[])) ORDER BY number"
)
# One row lock for all of a worker's instances: it blocks claims from this lease, and does not block its
# renewal.
_LOCK_LEASE = sql("SELECT taken_from FROM {leases} WHERE id = :lease FOR KEY SHARE")
_STILL_MINE = sql(
    "SELECT i.id, i.fence FROM unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[])) AS mine(id, fence) "
    "JOIN {instances} i ON i.id = mine.id AND i.fence = mine.fence"
)
# A step that is begun again keeps its place in the sequence, unless it was compensated meanwhile.
_UPSERT = sql(
    """
    INSERT INTO {journal} AS s ({key}, step, status, attempts, result, error, undo_due, begun_at, ended_at)
    SELECT r.id, r.step, r.status, r.attempts, r.result, r.error, r.undo_due,
           now() - make_interval(secs => r.begun_ago),
           CASE WHEN r.status <> 'begun' THEN clock_timestamp() - make_interval(secs => r.ended_ago) END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        id text, step text, status text, attempts int, result jsonb, error jsonb, undo_due boolean,
        begun_ago float, ended_ago float)
    ON CONFLICT ({key}, step) DO UPDATE
    SET status = excluded.status, attempts = excluded.attempts,
        result = excluded.result, error = excluded.error,
        undo_due = excluded.undo_due, ended_at = excluded.ended_at,
        number = CASE WHEN s.undo_status = 'done' THEN excluded.number ELSE s.number END,
        undo_status = NULL, undo_number = NULL, undo_result = NULL, undo_error = NULL
    """
)
_ADD_NOTES = sql(
    "UPDATE {journal} s SET notes = s.notes || r.notes "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, step text, notes jsonb) "
    "WHERE s.{key} = r.id AND s.step = r.step"
)
_BEGIN_UNDO = sql(
    "UPDATE {journal} SET undo_status = 'begun', undo_attempts = undo_attempts + 1, "
    "undo_begun_at = coalesce(undo_begun_at, clock_timestamp()), "
    "undo_number = coalesce(undo_number, nextval(pg_get_serial_sequence('{journal}', 'number'))) "
    "WHERE step = :step AND {key} = ANY(CAST(:ids AS text[])) "
    "RETURNING {key} AS instance_id, undo_number, undo_attempts"
)
_RECORD_UNDO = sql(
    "UPDATE {journal} s SET undo_status = r.status, undo_due = (r.status <> 'done'), undo_result = r.result, "
    # Keeps what an earlier attempt found, such as the number of refusals, after an attempt without an answer.
    "undo_error = CASE WHEN r.error IS NOT NULL THEN coalesce(s.undo_error, '{{}}') || r.error END, "
    # A compensation that was given up before its attempt was recorded gets its place in the sequence, too.
    "undo_number = coalesce(s.undo_number, nextval(pg_get_serial_sequence('{journal}', 'number'))), "
    "undo_ended_at = clock_timestamp() "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, status text, result jsonb, error jsonb) "
    "WHERE s.step = :step AND s.{key} = r.id RETURNING s.{key} AS instance_id, s.undo_number"
)
_MARK_DUE = sql(
    "UPDATE {journal} SET undo_due = true WHERE step = :step AND {key} = ANY(CAST(:ids AS text[]))"
)
# Reads all requests, from a partial index with nothing else in it: the cost does not depend on the size of a
# batch.
_CANCEL_REQUESTS = sql(
    "SELECT id, cancel_reason FROM {instances} "
    "WHERE cancel_requested_at IS NOT NULL AND outcome IS NULL LIMIT 10000"
)


@dataclass(slots=True)
class Record:
    """A journal entry to write, about one step of an instance or its compensation."""

    instance: Instance
    step: str
    status: str
    """`begun`, `done` or `failed`."""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    undo_due: bool = False
    again: bool = True
    """Whether this is a new attempt, and not the end of one that was written as begun."""
    began: float | None = None
    ended: float | None = None
    """Begin and end (`time.monotonic()`); None: the time of the write."""


async def load(tx: Tx, instances: Sequence[Instance]) -> None:
    """Reads the instances' journals again: after a claim,
    or when it is unclear whether a commit succeeded."""
    if not instances:
        return
    by_id = {instance.id: instance for instance in instances}
    # First, because it may fail: then nothing changes.
    rows = (await tx.execute(_LOAD(instances[0].store), {"ids": list(by_id)})).mappings().all()
    pending = {
        instance.id: {step: instance.journal[step] for step in instance.pending_records}
        for instance in instances
    }
    for instance in instances:
        instance.journal = {}
    for row in rows:
        fields = dict(row)
        instance_id = fields.pop("instance_id")
        by_id[instance_id].journal[row["step"]] = Entry(**fields)
    for instance in instances:  # keep records that are not written yet
        for step, entry in pending[instance.id].items():
            if step in instance.journal and instance.journal[step].attempts >= entry.attempts:
                del instance.pending_records[step]
            else:
                instance.journal[step] = entry


async def verify_ownership(tx: Tx, instances: Iterable[Instance]) -> list[Instance]:
    """Returns the instances that this worker still owns, and prevents claims of them until the transaction
    ends. Marks the others as `lost`."""
    mine = [instance for instance in instances if not instance.lost]
    for lease in {instance.lease for instance in mine}:
        taken_from = (await tx.execute(_LOCK_LEASE(mine[0].store), {"lease": lease})).scalar()
        if taken_from is not False:  # also None: the lease is gone
            await _check_fences(
                tx, [instance for instance in mine if instance.lease == lease], gone=taken_from is None
            )
    return [instance for instance in mine if not instance.lost]


async def _check_fences(tx: Tx, instances: Sequence[Instance], *, gone: bool) -> None:
    rows = await tx.execute(
        _STILL_MINE(instances[0].store),
        {
            "ids": [instance.id for instance in instances],
            "fences": [instance.fence for instance in instances],
        },
    )
    held = set() if gone else {(row.id, row.fence) for row in rows.all()}
    for instance in instances:
        instance.lost = (instance.id, instance.fence) not in held


def defer(records: Iterable[Record]) -> None:
    """Defers the records of steps that changed nothing to the next write. After a crash before that write the
    steps run again."""
    for record in records:
        _update_entry(record)
        record.instance.pending_records[record.step] = record


async def write(tx: Tx, records: Sequence[Record]) -> None:
    """Writes one row for each record, after its instance's pending records."""
    for record in records:
        _update_entry(record)
        if before := record.instance.pending_records:
            before.pop(record.step, None)
    waiting = dict.fromkeys(record.instance for record in records if record.instance.pending_records)
    pending = [each for instance in waiting for each in instance.pending_records.values()]
    await _write(tx, [*pending, *records], pending)


async def write_pending(tx: Tx, instances: Iterable[Instance]) -> None:
    """Writes the instances' pending records."""
    pending = [record for instance in instances for record in instance.pending_records.values()]
    await _write(tx, pending, pending)


async def _write(tx: Tx, records: Sequence[Record], pending: Sequence[Record]) -> None:
    """Writes the records. `pending`: those of them that are pending until the commit."""
    if not records:
        return
    now = time.monotonic()
    await tx.execute(
        _UPSERT(records[0].instance.store), {"rows": as_json([_row(record, now) for record in records])}
    )

    def written() -> None:
        for record in pending:
            if record.instance.pending_records.get(record.step) is record:
                del record.instance.pending_records[record.step]

    if pending:
        after_commit(tx, written)


def _update_entry(record: Record) -> None:
    journal, step = record.instance.journal, record.step
    old = journal.get(step)
    if old is None:
        number, attempts, notes = record.instance.next_number(), int(record.again), {}
    else:
        number = record.instance.next_number() if old.undo_status == "done" else old.number
        attempts, notes = old.attempts + record.again, old.notes
    journal[step] = Entry(
        step, record.status, number, attempts, notes, record.result, record.error, record.undo_due
    )


def _row(record: Record, now: float) -> dict[str, Any]:
    return {
        "id": record.instance.id,
        "step": record.step,
        "status": record.status,
        "attempts": record.instance.journal[record.step].attempts,
        "result": record.result,
        "error": record.error,
        "undo_due": record.undo_due,
        "begun_ago": now - record.began if record.began else 0.0,
        "ended_ago": now - record.ended if record.ended else 0.0,
    }


async def add_notes(tx: Tx, notes: Sequence[tuple[Instance, str, dict[str, Any]]]) -> None:
    """Adds facts to the notes of steps that have begun: (instance, step, facts)."""
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for instance, step, facts in notes:
        together.setdefault((instance.id, step), {}).update(facts)
    rows = [
        {"id": instance_id, "step": step, "notes": facts} for (instance_id, step), facts in together.items()
    ]
    await tx.execute(_ADD_NOTES(notes[0][0].store), {"rows": as_json(rows)})
    for instance, step, facts in notes:
        instance.journal[step].notes = {**instance.journal[step].notes, **facts}


async def begin_undo(tx: Tx, step: str, instances: Sequence[Instance]) -> None:
    """Records that an attempt of the compensation begins."""
    if not instances:
        return
    rows = await tx.execute(
        _BEGIN_UNDO(instances[0].store), {"step": step, "ids": [instance.id for instance in instances]}
    )
    begun = {row.instance_id: (row.undo_number, row.undo_attempts) for row in rows.all()}
    for instance in instances:
        entry = instance.journal[step]
        # Otherwise the step's row was never committed: the compensation finds nothing to undo.
        if instance.id in begun:
            entry.undo_status, (entry.undo_number, entry.undo_attempts) = "begun", begun[instance.id]


async def write_undo(tx: Tx, step: str, records: Sequence[Record]) -> None:
    """Records how the compensation ended: `done`, and it is no longer due, or `failed`, and it still is."""
    if not records:
        return
    rows = [{"id": r.instance.id, "status": r.status, "result": r.result, "error": r.error} for r in records]
    written = await tx.execute(_RECORD_UNDO(records[0].instance.store), {"step": step, "rows": as_json(rows)})
    numbers = {row.instance_id: row.undo_number for row in written.all()}
    for r in records:
        entry = r.instance.journal[step]
        entry.undo_number = numbers.get(r.instance.id, entry.undo_number)
        entry.undo_status, entry.undo_result, entry.undo_due = r.status, r.result, r.status != "done"
        entry.undo_error = {**(entry.undo_error or {}), **r.error} if r.error is not None else None


async def write_begun_elsewhere(tx: Tx, steps: Mapping[Instance, Sequence[str]]) -> None:
    """Records steps that others have begun: their compensations are due, like those of steps that this saga
    has begun."""
    await write(
        tx,
        [
            Record(instance, step, "begun", undo_due=True, again=False)
            for instance, names in steps.items()
            for step in names
        ],
    )


async def mark_due(tx: Tx, step: str, instances: Sequence[Instance]) -> None:
    """Makes the step's compensation due, which the failure of a later step would not do."""
    if not instances:
        return
    await tx.execute(
        _MARK_DUE(instances[0].store), {"step": step, "ids": [instance.id for instance in instances]}
    )
    for instance in instances:
        instance.journal[step].undo_due = True


async def cancel_requests(tx: Tx, instances: Sequence[Instance]) -> dict[Instance, SagaCancelled]:
    """Returns the instances that have a cancel request. This only saves work: the pivot checks by itself."""
    if not instances:
        return {}
    requested = {
        row.id: row.cancel_reason for row in (await tx.execute(_CANCEL_REQUESTS(instances[0].store))).all()
    }
    return (
        {
            instance: SagaCancelled(requested[instance.id])
            for instance in instances
            if instance.id in requested
        }
        if requested
        else {}
    )
