"""Writes how a worker's hold on an instance ends: failure, outcome, or postponement.
Each is one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import TextClause, text

from saga import journal
from saga.asyncio_tasks import cancel_and_wait
from saga.database import Tx, after_commit, as_json, transaction
from saga.definition import Saga
from saga.errors import StepError, TooManyTakeovers
from saga.failpoints import failpoint
from saga.hooks import Ending, outcome_of
from saga.instance import Instance, SagaInstance
from saga.lease import CHECK_FENCES
from saga.outcome import Compensation
from saga.store import SagaStore, sql
from saga.wakeup import FINISHED, notification
from saga.yielding import yielding

log = logging.getLogger(__name__)
P = TypeVar("P")
_FINISHING, _RECORDING, _POSTPONING = (
    failpoint(f"the commit of {what}") for what in ("outcomes", "failures", "postponing")
)
_SAVEPOINT, _ROLLBACK = text("SAVEPOINT outcomes"), text("ROLLBACK TO SAVEPOINT outcomes")
BLOCKED_SECONDS = 120
"""Seconds after `not_before` in which a postponed instance without an outcome still counts as blocked by what
it was postponed for."""
_RECORD_FAILURE = sql(
    "UPDATE {instances} i SET failing_step = r.step, failure = r.failure "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, step text, failure jsonb) WHERE i.id = r.id"
)
_PAUSE_IF_WORKER_DIES = sql(
    "UPDATE {instances} SET not_before = now() + make_interval(secs => :seconds) "
    "WHERE id = :id AND outcome IS NULL"
)


@cache
def _finish(store: SagaStore[Any]) -> TextClause:
    """One UPDATE for the outcome and the owner's columns. Its parameter is `rows`."""
    columns = store.hooks.outcome_columns
    values = "".join(f", {name} = r.{name}" for name in columns)
    types = "".join(f", {name} {kind}" for name, kind in columns.items())
    return text(
        f"UPDATE {store.instances} i "  # noqa: S608  (names of tables and columns from code)
        "SET outcome = r.outcome, status = r.outcome, failing_step = r.failing_step, reasons = r.reasons, "
        f"undone = r.undone{values}, lease_id = NULL, finished_at = clock_timestamp() "
        "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
        f"AS r(id text, outcome text, failing_step text, reasons jsonb, undone jsonb, fence bigint{types}) "
        "WHERE i.id = r.id AND i.fence = r.fence AND i.outcome IS NULL "
        "AND (r.outcome <> 'completed' OR i.cancel_requested_at IS NULL) "
        "RETURNING i.id"
    )


@cache
def _postpone(store: SagaStore[Any]) -> TextClause:
    """Updates only instances that are still under one of the given leases: after a commit whose answer was
    lost, an instance may have ended, or another worker may hold it. An instance with a cancel request gets a
    short pause."""
    return text(
        f"UPDATE {store.instances} i SET lease_id = NULL, waits_for = :code, "  # noqa: S608  (names from code)
        "waits_since = CASE WHEN CAST(:code AS text) IS NULL THEN NULL WHEN waits_for = :code AND "
        f"not_before > now() - make_interval(secs => {BLOCKED_SECONDS}) THEN waits_since ELSE now() END, "
        "not_before = now() + make_interval(secs => CASE WHEN cancel_requested_at IS NOT NULL OR "
        f"({store.hooks.urgent}) THEN least(:seconds, 1) ELSE :seconds END) "
        "WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NULL AND lease_id = ANY(CAST(:leases AS uuid[]))"
    )


async def record_failures(instances: Sequence[Instance], *, pivot: str | None = None) -> None:
    """Commits why the instances fail, before the first compensation runs, so that a worker that takes over
    continues to compensate.

    `pivot`: the saga's; its compensation becomes due, too, for instances that have it as done.
    """
    async with transaction(_RECORDING) as tx:
        held = await journal.verify_ownership(tx, instances)
        await journal.write_begun_elsewhere(tx, {i: steps for i in held if (steps := begun_elsewhere(i))})
        rows = [
            {
                "id": i.id,
                "step": i.failing_step,
                "failure": {**i.failure.details(), "reasons": i.failure.reasons()},
            }
            for i in held
            if i.failure
        ]
        if rows:
            await journal.write_pending(tx, held)
            await tx.execute(_RECORD_FAILURE(held[0].store), {"rows": as_json(rows)})
        if pivot is not None and (returning := [instance for instance in held if instance.done(pivot)]):
            await journal.mark_due(tx, pivot, returning)


def begun_elsewhere(instance: Instance) -> list[str]:
    """Returns the steps that others have begun for the instance, and that its journal does not have."""
    return [step for step in instance.store.hooks.begun_elsewhere(instance) if step not in instance.journal]


async def give_up_compensating(instances: Sequence[Instance]) -> None:
    """Records every compensation that is due as failed, without trying it: trying it kills the workers."""
    async with transaction(_RECORDING) as tx:
        for instance in await journal.verify_ownership(tx, instances):
            error = TooManyTakeovers(instance.lone_deaths).details()
            for step in instance.undo_plan():
                await journal.write_undo(tx, step, [journal.Record(instance, step, "failed", error=error)])


async def finish(instances: Sequence[SagaInstance[P]], saga: Saga) -> dict[str, str]:
    """Commits the outcomes of those instances that this worker still holds, with what the owner's hooks add.
    Returns them by id. The last step has done that already for the instances that are `closed`.

    A completed instance with a cancel request gets no outcome: it is released, and then compensated.
    """
    open_ones: list[SagaInstance[P]] = []
    for instance in instances:
        if instance.closed:
            instance.lost = True
        elif not instance.lost:
            open_ones.append(instance)
    if not open_ones:
        return {}
    endings = {instance: _ending(instance, saga) async for instance in yielding(open_ones)}
    ended: list[Ending[P]] = []
    async with transaction(_FINISHING) as tx:
        held = await journal.verify_ownership(tx, open_ones)
        if held:
            await journal.write_pending(tx, held)
            ended = await _write(tx, [endings[instance] for instance in held])
    for instance in held:
        instance.lost = True
    return {ending.instance.id: ending.outcome for ending in ended}


async def close(tx: Tx, instances: Sequence[SagaInstance[P]], saga: Saga) -> None:
    """Writes the outcomes in the transaction that records the instances' last step, so that they need no
    transaction of their own. The caller holds the instances; `finish` lets go of them after the commit.

    If the outcomes cannot be written, the step's result is still committed, and `finish` tries again:
    an error of one outcome is no error of the step, or of the other instances.
    """
    if not instances:
        return
    await tx.execute(_SAVEPOINT)
    try:
        await _write(tx, [_ending(instance, saga) async for instance in yielding(instances)])
    except Exception as error:  # noqa: BLE001  (`finish` meets it again, and handles it)
        log.debug("the outcomes do not commit with the last step (%s)", type(error).__name__)
        await tx.execute(_ROLLBACK)  # raises if the connection is lost
        return

    def closed() -> None:
        for instance in instances:
            instance.closed = True

    after_commit(tx, closed)


async def _write(tx: Tx, endings: Sequence[Ending[P]]) -> list[Ending[P]]:
    """Writes the endings, and releases completed instances with a cancel request. Returns the endings that
    are outcomes now."""
    store = endings[0].instance.store
    rows = as_json([_row(ending) for ending in endings])
    ids = set((await tx.execute(_finish(store), {"rows": rows})).scalars())
    ended = [ending for ending in endings if ending.instance.id in ids]
    await store.hooks.ended(tx, ended)
    if left := [ending.instance for ending in endings if ending.instance.id not in ids]:
        await _release(tx, left, seconds=0)
    await tx.execute(notification(store, FINISHED))
    if ended:
        after_commit(tx, lambda: store.hooks.committed(ended))
    return ended


def _ending(instance: SagaInstance[P], saga: Saga) -> Ending[P]:
    compensations = _compensations(instance, saga) if instance.failure else []
    outcome = outcome_of(instance, compensations)
    return Ending(instance, outcome, compensations, *instance.store.hooks.prepare(instance, outcome))


def _row(ending: Ending[Any]) -> dict[str, Any]:
    instance = ending.instance
    return {
        "id": instance.id,
        "fence": instance.fence,
        "outcome": ending.outcome,
        "failing_step": instance.failing_step,
        "reasons": instance.failure.reasons() if instance.failure else [],
        "undone": [each.model_dump(mode="json") for each in ending.compensations],
        **ending.columns,
    }


def _compensations(instance: Instance, saga: Saga) -> list[Compensation]:
    names = {step.name: step.undo_name or step.name for step in saga}
    tried = sorted(
        (entry for entry in instance.journal.values() if entry.undo_number is not None),
        key=lambda entry: entry.undo_number or 0,
    )
    compensations = []
    for entry in tried:
        details = (entry.undo_result if entry.undo_status == "done" else entry.undo_error) or {}
        status = (
            str(details.get("compensation_status", "success")) if entry.undo_status == "done" else "failed"
        )
        compensations.append(
            Compensation(
                step=entry.step,
                compensation=names.get(entry.step, entry.step),
                status=status,
                details=details,
            )
        )
    return compensations


async def postpone(instances: Collection[Instance], seconds: float, error: StepError | None = None) -> None:
    """Releases instances that cannot be worked on now; they can be claimed again after the pause.

    `error`: what blocks them, if that is outside. It is stored with them, and given to the owner's hooks.
    """
    if not instances:
        return
    held = list(instances)
    # No call may continue after another worker has claimed its instance.
    await cancel_and_wait([call for instance in held for call in instance.in_flight.values()])
    await held[0].store.hooks.before_postponing(held, seconds, error)
    async with transaction(_POSTPONING) as tx:
        held = await journal.verify_ownership(tx, held)
        if held:
            await _release(tx, held, seconds, error.code if error is not None else None)
            await held[0].store.hooks.postponed(tx, held, seconds, error)
    for instance in held:
        instance.lost = True


async def pause_if_worker_dies(instance: Instance, seconds: float) -> None:
    """Sets the pause after which another worker may claim the instance if this worker dies. This worker keeps
    it."""
    async with transaction(_POSTPONING) as tx:
        if await journal.verify_ownership(tx, [instance]):
            await tx.execute(
                _PAUSE_IF_WORKER_DIES(instance.store), {"id": instance.id, "seconds": float(seconds)}
            )


async def _release(tx: Tx, held: Sequence[Instance], seconds: float, code: str | None = None) -> None:
    store, leases = held[0].store, list({instance.lease for instance in held})
    parameters = {
        "ids": [instance.id for instance in held],
        "seconds": float(seconds),
        "held_seconds": 1 + time.monotonic() - min(instance.claimed_at for instance in held),
        "leases": leases,
        "code": code,
    }
    await tx.execute(_postpone(store), parameters)
    await tx.execute(CHECK_FENCES(store), {"leases": leases})
