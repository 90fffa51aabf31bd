"""Claims: which instances a worker takes under its lease, and which it leaves to others.

An instance can be claimed if no worker holds it: it waits, or the lease of the worker that held it has
expired. Instances whose workers died repeatedly are claimed separately (on trial), to find out which of them
is the cause.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Required, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import TextClause

from saga import journal
from saga.configuration import config
from saga.database import Tx, after_commit, transaction
from saga.errors import RecordedFailure, UnknownStep
from saga.failpoints import failpoint
from saga.infrastructure import may_concern_one_instance
from saga.instance import Instance, SagaInstance
from saga.lease import RENEWED
from saga.store import SagaStore, sql

log = logging.getLogger(__name__)
Statement = Callable[[SagaStore[Any]], TextClause]
CLAIMING = failpoint("the commit of claiming instances")
"""The failpoint of a transaction that calls `claim`."""
# An expired lease can be locked if its holder is not writing under it at this moment. The lock allows
# claiming its instances. The lock of the own lease lasts until the claim is committed or rolled back, and
# `saga.lease.release_all` waits for it.
_LOCK_LEASES = sql(
    "WITH own AS (SELECT id FROM {leases} WHERE id = CAST(:own AS uuid) FOR SHARE), "
    "dead AS (SELECT id FROM {leases} WHERE until < now() AND id IS DISTINCT FROM CAST(:own AS uuid) "
    "FOR UPDATE SKIP LOCKED) SELECT id FROM own UNION ALL SELECT id FROM dead"
)
_TAKEN_FROM = sql(
    "UPDATE {leases} l SET taken_from = true, orders_left = coalesce(l.orders_left, "
    "(SELECT count(*) FROM {instances} i WHERE i.lease_id = l.id AND i.outcome IS NULL)) "
    "WHERE l.id = ANY(CAST(:leases AS uuid[])) AND (NOT l.taken_from OR l.orders_left IS NULL)"
)
_SUSPECTED_FROM = 2
"""Takeovers from which an instance is claimed on trial. Fewer deaths can have any cause."""
_REDUCTION_FACTOR = 10
"""After each death, this factor reduces the number of instances that are on trial together."""
_LONGEST_PAUSE_SECONDS = 60
"""Limits the pause before a trial, in seconds. It doubles with each death of a worker that had only this
instance."""
_PAUSE_CUTOFF = (
    f"now() - make_interval(secs => CASE WHEN i.takeovers >= {_SUSPECTED_FROM} "
    f"THEN least({_LONGEST_PAUSE_SECONDS}, power(2, least(i.lone_deaths, 30)) - 1) ELSE 0 END)"
)
"""SQL: the lease must have expired before this time."""
_CLAIM = """
    WITH mine AS (
        SELECT i.id, i.flow_run_id, i.lease_id AS left_lease, i.lease_id IS NOT NULL AS lease_expired,
            EXISTS (SELECT 1 FROM {{leases}} l WHERE l.id = i.lease_id AND l.orders_left = 1) AS left_alone
        FROM {{instances}} i
        WHERE i.outcome IS NULL AND {when}
          AND (i.lease_id IS NULL OR i.lease_id = ANY(CAST(:leases AS uuid[]))
               OR NOT EXISTS (SELECT 1 FROM {{leases}} l WHERE l.id = i.lease_id))
          AND (i.waits_for IS DISTINCT FROM :unknown_step OR CAST(:known AS text[]) IS NULL OR NOT EXISTS (
              SELECT 1 FROM {{journal}} s WHERE s.{{key}} = i.id AND s.step <> ALL(CAST(:known AS text[]))))
          {which}
        ORDER BY i.number LIMIT :most FOR UPDATE OF i SKIP LOCKED
    )
    UPDATE {{instances}} i
    SET lease_id = :lease, fence = i.fence + 1,
        takeovers = i.takeovers + CASE WHEN mine.lease_expired THEN 1 ELSE 0 END,
        lone_deaths = i.lone_deaths + CASE WHEN mine.left_alone THEN 1 ELSE 0 END,
        taken_over_from = coalesce(mine.left_lease, i.taken_over_from),
        waits_for = nullif(i.waits_for, :unknown_step),
        started_at = coalesce(i.started_at, now()), flow_run_id = coalesce(:run, i.flow_run_id),
        not_before = CASE WHEN i.fence > 0 THEN i.not_before END
    FROM mine WHERE i.id = mine.id
    RETURNING i.id, i.number, i.content, i.fence, i.takeovers, i.lone_deaths, i.submitted_at,
        i.cancel_reason, i.failing_step, i.failure, mine.flow_run_id AS left_by, mine.lease_expired
"""
_RELEASE_TO_OTHER_VERSION = sql(
    "UPDATE {instances} i SET lease_id = NULL, flow_run_id = r.run, waits_for = :code, waits_since = now() "
    "FROM unnest(CAST(:ids AS text[]), CAST(:runs AS text[])) AS r(id, run) WHERE i.id = r.id"
)
_DUE = "(i.not_before IS NULL OR i.not_before <= now())"
_UNSUSPECTED = f"AND (i.lease_id IS NULL OR i.takeovers < {_SUSPECTED_FROM})"
_CLAIM_ANY = sql(_CLAIM.format(when=_DUE, which=_UNSUSPECTED))
_CLAIM_BEGUN = sql(_CLAIM.format(when=_DUE, which=f"AND i.fence > 0 {_UNSUSPECTED}"))
_SUSPECTED = f"i.lease_id IS NOT NULL AND i.takeovers >= {_SUSPECTED_FROM}"
_OLDEST_SUSPECTED = sql(
    "SELECT i.id, i.takeovers, i.lone_deaths > 0 OR coalesce(l.orders_left = 1, false) AS alone "  # noqa: S608  (constants)
    f"FROM {{instances}} i LEFT JOIN {{leases}} l ON l.id = i.lease_id "
    f"WHERE i.outcome IS NULL AND {_SUSPECTED} AND {_DUE} AND i.waits_for IS DISTINCT FROM :unknown_step "
    f"AND (l.id IS NULL OR l.id = ANY(CAST(:leases AS uuid[])) AND l.until < {_PAUSE_CUTOFF}) "
    "ORDER BY i.number LIMIT 1"
)
_NOT_ALONE = """
    i.lone_deaths = 0
    AND NOT EXISTS (SELECT 1 FROM {leases} l WHERE l.id = i.lease_id AND l.orders_left = 1)
"""
_CLAIM_SUSPECTED = sql(
    _CLAIM.format(when=_DUE, which=f"AND {_SUSPECTED} AND i.takeovers <= :takeovers AND {_NOT_ALONE}")
)
# A postponed instance that no worker has begun is available to the caller that claims it by its id.
_CLAIM_THESE = sql(
    _CLAIM.format(when=f"({_DUE} OR i.fence = 0)", which="AND i.id = ANY(CAST(:ids AS text[]))")
)
# Like the condition in `_CLAIM`, without locking anything. Omits instances that were left to a worker of
# another version.
_CLAIMABLE = (
    f"SELECT i.id, i.fence, {_SUSPECTED} AS suspected FROM {{instances}} i "  # noqa: S608  (constants)
    f"WHERE i.outcome IS NULL AND {_DUE} AND i.waits_for IS DISTINCT FROM :unknown_step "
    "AND (i.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM {leases} l "
    f"WHERE l.id = i.lease_id AND l.until >= {_PAUSE_CUTOFF} + make_interval(secs => :renewed))) "
)
_OLDEST_UNATTENDED = sql(f"{_CLAIMABLE} ORDER BY i.number LIMIT 1")
_CLAIMABLE_IDS = sql(f"{_CLAIMABLE} AND (NOT :begun OR i.fence > 0) ORDER BY suspected, i.number LIMIT :most")
_UNKNOWN_STEP = {"unknown_step": UnknownStep.code}
# Increments the fence, so that the pause grows, and so that the previous worker cannot write about the
# instance.
_SET_ASIDE = sql(
    "UPDATE {instances} i SET lease_id = NULL, fence = i.fence + 1, "
    "not_before = now() + make_interval(secs => least(:longest, power(2, least(i.fence, 30)))) "
    "WHERE i.id = :id AND i.outcome IS NULL "
    "AND (i.lease_id IS NULL OR i.lease_id = ANY(CAST(:leases AS uuid[])) "
    "OR NOT EXISTS (SELECT 1 FROM {leases} l WHERE l.id = i.lease_id))"
)
LONGEST_ASIDE_SECONDS = 300
"""Limits the pause of an instance after an unexpected error, in seconds."""
_HAS_WAITED = sql(
    "SELECT greatest(i.submitted_at, i.not_before) < now() - make_interval(secs => :seconds) "  # noqa: S608  (constants)
    f"FROM {{instances}} i WHERE i.outcome IS NULL AND i.lease_id IS NULL AND {_DUE} "
    "AND i.waits_for IS DISTINCT FROM :unknown_step ORDER BY i.number LIMIT 1"
)
_LEASE_OF_RUN = sql(
    "SELECT CAST(extract(epoch FROM max(l.until) - clock_timestamp()) AS float) FROM {instances} i "
    "JOIN {leases} l ON l.id = i.lease_id WHERE i.flow_run_id = :run AND i.outcome IS NULL"
)


class Wanted(TypedDict, total=False):
    """What to claim."""

    most: Required[int]
    """Limits the number of instances."""
    ids: Sequence[str] | None
    """Only these."""
    only_begun: bool
    """Only those that some worker has begun."""
    flow_run_id: str | None
    """The flow run that claims them."""
    known: Collection[str] | None
    """The steps of this worker's saga: an instance with another step in its journal is left to a worker of
    the version that has it. None: all."""
    idle: bool
    """Whether the worker holds no other instance now, as it is by default: only then are instances claimed on
    trial."""
    survived: int
    """How many trials the worker has survived; after each it claims twice as many."""


async def claim_batch(store: SagaStore[Any], lease: UUID, **wanted: Unpack[Wanted]) -> list[Instance]:
    """Runs `claim` in its own transaction. If an instance makes it fail for all, claims each separately, and
    postpones the failing one with a growing pause."""
    try:
        return await _claim_in_transaction(store, lease, wanted)
    except Exception as error:
        if not may_concern_one_instance(error):
            raise
        log.exception("claiming up to %d instances together failed: claiming them one by one", wanted["most"])
    suspected: list[str] = []
    if (ids := wanted.get("ids")) is None:
        which: dict[str, Any] = {"most": wanted["most"], "begun": wanted.get("only_begun", False)}
        which |= {"renewed": 0, **_UNKNOWN_STEP}
        async with transaction() as tx:
            rows = (await tx.execute(_CLAIMABLE_IDS(store), which)).all()
        ids, suspected = (
            [row.id for row in rows if not row.suspected],
            [row.id for row in rows if row.suspected],
        )
    claimed: list[Instance] = []
    for instance_id in ids:
        claimed += await _claim_or_set_aside(store, lease, instance_id, wanted)
    if claimed or not wanted.get("idle", True):
        return claimed
    for instance_id in suspected:  # at most one, and no other instance with it
        if claimed := await _claim_or_set_aside(store, lease, instance_id, wanted):
            claimed[0].on_trial = True
            return claimed
    return []


async def _claim_in_transaction(store: SagaStore[Any], lease: UUID, wanted: Wanted) -> list[Instance]:
    async with transaction(CLAIMING) as tx:
        return await claim(tx, store, lease, **wanted)


async def _claim_or_set_aside(
    store: SagaStore[Any], lease: UUID, instance_id: str, wanted: Wanted
) -> list[Instance]:
    try:
        return await _claim_in_transaction(store, lease, {**wanted, "most": 1, "ids": [instance_id]})
    except Exception as error:
        if not may_concern_one_instance(error):
            raise
        log.exception("instance %s cannot be claimed: postponing it", instance_id)
    async with transaction(CLAIMING) as tx:
        await set_aside(tx, store, instance_id)
    return []


async def set_aside(tx: Tx, store: SagaStore[Any], instance_id: str) -> None:
    """Postpones an instance that no worker holds; the pause grows each time."""
    leases = await lock_expired_leases(tx, store)
    await tx.execute(
        _SET_ASIDE(store), {"id": instance_id, "longest": LONGEST_ASIDE_SECONDS, "leases": leases}
    )


async def claim(tx: Tx, store: SagaStore[Any], lease: UUID, **wanted: Unpack[Wanted]) -> list[Instance]:
    """Claims open instances that no worker holds, oldest first: waiting ones, and those whose lease has
    expired.

    Instances whose workers died repeatedly are claimed separately (`on_trial`): fewer after each death, in
    the end one, to find out which of them is the cause. Meanwhile the worker must hold no other instance.
    """
    ids, known = wanted.get("ids"), wanted.get("known")
    locked = await lock_expired_leases(tx, store, own=lease)
    if lease not in locked:  # its row was deleted, because it was not renewed for a day
        return []
    parameters: dict[str, Any] = {"lease": lease, "most": wanted["most"], "run": wanted.get("flow_run_id")}
    parameters |= {
        "leases": [each for each in locked if each != lease],
        "known": None if known is None else list(known),
        **_UNKNOWN_STEP,
    }
    if ids is not None:
        return await _claim_known(tx, store, _CLAIM_THESE, {**parameters, "ids": list(ids)}, known)
    if wanted.get("idle", True):
        on_trial = await _claim_suspected(tx, store, parameters, known, survived=wanted.get("survived", 0))
        if on_trial:
            return on_trial
    return await _claim_known(
        tx, store, _CLAIM_BEGUN if wanted.get("only_begun") else _CLAIM_ANY, parameters, known
    )


async def _claim_suspected(
    tx: Tx, store: SagaStore[Any], parameters: dict[str, Any], known: Collection[str] | None, *, survived: int
) -> list[Instance]:
    which = {name: parameters[name] for name in ("leases", "unknown_step")}
    oldest = (await tx.execute(_OLDEST_SUSPECTED(store), which)).one_or_none()
    if oldest is None:
        return []
    if oldest.alone:
        only = {**parameters, "ids": [oldest.id]}
        claimed = await _claim_known(tx, store, _CLAIM_THESE, only, known)
    else:
        fewer = max(1, parameters["most"] // _REDUCTION_FACTOR ** min(oldest.takeovers - 1, 6))
        limits = {"takeovers": oldest.takeovers, "most": min(parameters["most"], fewer << min(survived, 20))}
        claimed = await _claim_known(tx, store, _CLAIM_SUSPECTED, {**parameters, **limits}, known)
    for instance in claimed:
        instance.on_trial = True
    return claimed


async def _claim_known(
    tx: Tx,
    store: SagaStore[Any],
    statement: Statement,
    parameters: dict[str, Any],
    known: Collection[str] | None,
) -> list[Instance]:
    while claimed := await _claim(tx, store, statement, parameters):
        other_version = [
            instance
            for instance in claimed
            if known is not None and not instance.journal.keys() <= set(known)
        ]
        if other_version:
            await release_to_other_version(tx, other_version, known or ())
        if mine := [instance for instance in claimed if instance not in other_version]:
            return mine
    return []


async def leave_to_other_version(instances: Sequence[Instance], known: Collection[str]) -> None:
    """Releases instances that this worker holds, and whose journals have steps that it does not know."""
    async with transaction(CLAIMING) as tx:
        if held := await journal.verify_ownership(tx, instances):
            await release_to_other_version(tx, held, known)
    for instance in held:
        instance.lost = True


async def release_to_other_version(tx: Tx, instances: Sequence[Instance], known: Collection[str]) -> None:
    """Releases the instances and marks them, so that only a worker that knows all their steps claims them."""
    runs = {
        "ids": [instance.id for instance in instances],
        "runs": [instance.left_by for instance in instances],
    }
    await tx.execute(_RELEASE_TO_OTHER_VERSION(instances[0].store), {**runs, "code": UnknownStep.code})
    for instance in instances:
        unknown = UnknownStep(step for step in instance.journal if step not in known)
        after_commit(
            tx, partial(log.warning, "instance %s is left to another worker: %s", instance.id, unknown)
        )


async def _claim(
    tx: Tx, store: SagaStore[Any], statement: Statement, parameters: dict[str, Any]
) -> list[Instance]:
    rows = await tx.execute(statement(store), parameters)
    instances: list[Instance] = []
    # Unpacked by position, which takes a fifth of the time of reading each column by its name.
    for (
        instance_id,
        _,
        content,
        fence,
        takeovers,
        lone_deaths,
        submitted_at,
        cancel_reason,
        failing_step,
        failure,
        left_by,
        lease_expired,
    ) in sorted(rows.all(), key=itemgetter(1)):
        instance = SagaInstance(
            instance_id,
            content,
            fence,
            store,
            parameters["lease"],
            takeovers,
            lone_deaths,
            left_by=left_by,
            lease_expired=lease_expired,
            submitted_at=submitted_at,
            cancel_reason=cancel_reason,
        )
        if failure is not None:
            instance.fail(failing_step, RecordedFailure(failure))
        instances.append(instance)
    await journal.load(tx, [instance for instance in instances if instance.fence > 1])
    return instances


async def lock_expired_leases(tx: Tx, store: SagaStore[Any], own: UUID | None = None) -> list[UUID]:
    """Returns the expired leases, locked until the transaction ends, and marks them, so that a holder that
    resumes checks each instance's fence before it writes. `own`: this worker's lease, which is locked,
    returned and not marked, expired or not."""
    leases = list((await tx.execute(_LOCK_LEASES(store), {"own": own})).scalars().all())
    if dead := [lease for lease in leases if lease != own]:
        await tx.execute(_TAKEN_FROM(store), {"leases": dead})
    return leases


async def oldest_unattended(tx: Tx, store: SagaStore[Any]) -> tuple[str, int, bool] | None:
    """Returns the oldest instance that no worker attends to: one that can be claimed now, or whose holder did
    not renew its lease on time and has probably died. Its id, its fence, and whether only a worker without
    other instances could claim it. None if there is none."""
    parameters = {"renewed": config().lease_seconds * RENEWED, **_UNKNOWN_STEP}
    row = (await tx.execute(_OLDEST_UNATTENDED(store), parameters)).one_or_none()
    return None if row is None else (row.id, row.fence, row.suspected)


async def has_waited(tx: Tx, store: SagaStore[Any], *, seconds: float) -> bool:
    """Returns whether the oldest instance that no worker holds has waited for longer than this time."""
    found = await tx.execute(_HAS_WAITED(store), {"seconds": seconds, **_UNKNOWN_STEP})
    return bool(found.scalar())


async def lease_left(tx: Tx, store: SagaStore[Any], flow_run_id: str) -> float | None:
    """Returns for how many seconds the lease on this run's open instances is valid (negative: it has
    expired); None if there are none."""
    left: float | None = (await tx.execute(_LEASE_OF_RUN(store), {"run": flow_run_id})).scalar()
    return left
