"""The journal: what was begun, what it produced, what was undone; and who may write it.

Every write happens in the caller's transaction, after `hold` has locked the orders and checked their fences. An order
that another worker has claimed since is marked `lost` and left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from shop.database import Tx, after_commit, as_json, transaction
from shop.errors import OrderCancelled, RecordedFailure, UnknownStep
from shop.infrastructure import may_be_one_orders
from shop.points import effect
from shop.settings import settings
from shop.under_way import Entry, OrderUnderWay

log = logging.getLogger(__name__)
CLAIMING = effect("the commit of claiming orders")
"""For the transaction of a `claim`."""
RENEWED = 0.6
"""The share of a lease that is left at least while its holder lives: it renews four times in the time of a lease."""
# A dead lease can be locked: its holder is not just now writing under it (`_HOLD_LEASE`). Whoever locked it may take its orders.
_DEAD_LEASES = text("SELECT id FROM lease WHERE until < now() FOR UPDATE SKIP LOCKED")
_TAKEN_FROM = text(
    "UPDATE lease l SET taken_from = true, orders_left = coalesce(l.orders_left, "
    "(SELECT count(*) FROM customer_order o WHERE o.lease_id = l.id AND o.outcome IS NULL)) "
    "WHERE l.id = ANY(CAST(:leases AS uuid[])) AND (NOT l.taken_from OR l.orders_left IS NULL)"
)
_SUSPECTED_FROM = 2
"""Takeovers after which an order whose worker has died again is on trial: before, it may have been killed for any reason."""
_FEWER = 10
"""By this factor an order on trial has fewer others beside it after each death."""
_LONGEST_PAUSE_SECONDS = 60
"""Limits the pause before a trial, which doubles with each death of a worker that had only this order."""
_PAUSE_IS_OVER = (
    f"now() - make_interval(secs => CASE WHEN o.takeovers >= {_SUSPECTED_FROM} "
    f"THEN least({_LONGEST_PAUSE_SECONDS}, power(2, least(o.lone_deaths, 30)) - 1) ELSE 0 END)"
)
"""The end of a lease must be before that."""
_CLAIM = """
    WITH mine AS (
        SELECT o.id, o.flow_run_id, o.lease_id AS left_lease, o.lease_id IS NOT NULL AS left_behind,
            EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id AND l.orders_left = 1) AS left_alone
        FROM customer_order o
        WHERE o.outcome IS NULL AND {when}
          AND (o.lease_id IS NULL OR o.lease_id = ANY(CAST(:leases AS uuid[]))
               OR NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id))
          AND (o.waits_for IS DISTINCT FROM :stranger OR CAST(:known AS text[]) IS NULL OR NOT EXISTS (
              SELECT 1 FROM order_step s WHERE s.order_id = o.id AND s.step <> ALL(CAST(:known AS text[]))))
          {which}
        ORDER BY o.number LIMIT :most FOR UPDATE OF o SKIP LOCKED
    )
    UPDATE customer_order o
    SET lease_id = :lease, fence = o.fence + 1, takeovers = o.takeovers + CASE WHEN mine.left_behind THEN 1 ELSE 0 END,
        lone_deaths = o.lone_deaths + CASE WHEN mine.left_alone THEN 1 ELSE 0 END,
        taken_over_from = coalesce(mine.left_lease, o.taken_over_from), waits_for = nullif(o.waits_for, :stranger),
        started_at = coalesce(o.started_at, now()), flow_run_id = coalesce(:run, o.flow_run_id),
        not_before = CASE WHEN o.fence > 0 THEN o.not_before END
    FROM mine WHERE o.id = mine.id
    RETURNING o.id, o.number, o.content, o.fence, o.takeovers, o.lone_deaths, o.submitted_at, o.cancel_reason, o.failing_step, o.failure,
        mine.flow_run_id AS left_by, mine.left_behind
"""
_LEAVE = text(
    "UPDATE customer_order o SET lease_id = NULL, flow_run_id = r.run, waits_for = :code, waits_since = now() "
    "FROM unnest(CAST(:ids AS text[]), CAST(:runs AS text[])) AS r(id, run) WHERE o.id = r.id"
)
_DUE = "(o.not_before IS NULL OR o.not_before <= now())"
_UNSUSPECTED = f"AND (o.lease_id IS NULL OR o.takeovers < {_SUSPECTED_FROM})"
_CLAIM_ANY = text(_CLAIM.format(when=_DUE, which=_UNSUSPECTED))
_CLAIM_BEGUN = text(_CLAIM.format(when=_DUE, which=f"AND o.fence > 0 {_UNSUSPECTED}"))
_SUSPECTED = f"o.lease_id IS NOT NULL AND o.takeovers >= {_SUSPECTED_FROM}"
_OLDEST_SUSPECTED = text(
    f"SELECT o.id, o.takeovers, o.lone_deaths > 0 OR coalesce(l.orders_left = 1, false) AS alone "  # noqa: S608  (constants)
    f"FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id WHERE o.outcome IS NULL AND {_SUSPECTED} AND {_DUE} "
    f"AND o.waits_for IS DISTINCT FROM :stranger AND (l.id IS NULL OR l.id = ANY(CAST(:leases AS uuid[])) AND l.until < {_PAUSE_IS_OVER}) "
    "ORDER BY o.number LIMIT 1"
)
_NOT_ALONE = "o.lone_deaths = 0 AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id AND l.orders_left = 1)"
_CLAIM_SUSPECTED = text(_CLAIM.format(when=_DUE, which=f"AND {_SUSPECTED} AND o.takeovers <= :takeovers AND {_NOT_ALONE}"))
# One that nobody has begun with and that has to wait is kept for who claims it by its id (`shop.intake.submit`).
_CLAIM_THESE = text(_CLAIM.format(when=f"({_DUE} OR o.fence = 0)", which="AND o.id = ANY(CAST(:ids AS text[]))"))
# As `_CLAIM` has them, but without locking anything.
_CLAIMABLE = (
    f"SELECT o.id, o.fence, {_SUSPECTED} AS suspected FROM customer_order o WHERE o.outcome IS NULL AND {_DUE} "  # noqa: S608  (constants)
    "AND o.waits_for IS DISTINCT FROM :stranger "
    f"AND (o.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id AND l.until >= {_PAUSE_IS_OVER})) "
)
_OLDEST_CLAIMABLE = text(f"{_CLAIMABLE} ORDER BY o.number LIMIT 1").bindparams(stranger=UnknownStep.code)
_ONE_BY_ONE = text(f"{_CLAIMABLE} AND (NOT :begun OR o.fence > 0) ORDER BY suspected, o.number LIMIT :most").bindparams(
    stranger=UnknownStep.code
)
# The fence grows, so that the pause does, and whoever had it before writes nothing more about it.
_SET_ASIDE = text(
    "UPDATE customer_order o SET lease_id = NULL, fence = o.fence + 1, "
    "not_before = now() + make_interval(secs => least(:longest, power(2, least(o.fence, 30)))) "
    "WHERE o.id = :id AND o.outcome IS NULL AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id AND l.until >= now())"
)
LONGEST_ASIDE_SECONDS = 300
"""Limits the pause of an order that cannot be worked on for a reason that nobody foresaw."""
_IN_LIVE_HANDS = text(
    "SELECT count(*) FROM (SELECT 1 FROM customer_order o JOIN lease l ON l.id = o.lease_id "
    "WHERE o.outcome IS NULL AND l.until > now() + make_interval(secs => :renewed) LIMIT :most) held"
)
_LOAD = text(
    "SELECT order_id, step, status, number, attempts, notes, result, error, "
    "undo_due, undo_status, undo_number, undo_attempts, undo_result, undo_error "
    "FROM order_step WHERE order_id = ANY(CAST(:ids AS text[])) ORDER BY number"
)
_LEASE_OF_RUN = text(
    "SELECT CAST(extract(epoch FROM max(l.until) - clock_timestamp()) AS float) FROM customer_order o JOIN lease l ON l.id = o.lease_id "
    "WHERE o.flow_run_id = :run AND o.outcome IS NULL"
)
# One small lock for all of a worker's orders: nobody can claim under a lease that is locked so, and renewing it is not blocked.
_HOLD_LEASE = text("SELECT taken_from FROM lease WHERE id = :lease FOR KEY SHARE")
_STILL_MINE = text(
    "SELECT o.id, o.fence FROM unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[])) AS mine(id, fence) "
    "JOIN customer_order o ON o.id = mine.id AND o.fence = mine.fence"
)
# A step that is begun again keeps its place in the sequence, unless it had been undone meanwhile.
_UPSERT = text(
    """
    INSERT INTO order_step AS s (order_id, step, status, attempts, result, error, undo_due, begun_at, ended_at)
    SELECT r.order_id, r.step, r.status, r.attempts, r.result, r.error, r.undo_due, now() - make_interval(secs => r.begun_ago),
           CASE WHEN r.status <> 'begun' THEN clock_timestamp() - make_interval(secs => r.ended_ago) END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        order_id text, step text, status text, attempts int, result jsonb, error jsonb, undo_due boolean, begun_ago float, ended_ago float)
    ON CONFLICT (order_id, step) DO UPDATE
    SET status = excluded.status, attempts = excluded.attempts, result = excluded.result, error = excluded.error,
        undo_due = excluded.undo_due, ended_at = excluded.ended_at,
        number = CASE WHEN s.undo_status = 'done' THEN excluded.number ELSE s.number END,
        undo_status = NULL, undo_number = NULL, undo_result = NULL, undo_error = NULL
    """
)
_NOTE = text(
    "UPDATE order_step s SET notes = s.notes || r.notes "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, step text, notes jsonb) "
    "WHERE s.order_id = r.order_id AND s.step = r.step"
)
_BEGIN_UNDO = text(
    "UPDATE order_step SET undo_status = 'begun', undo_attempts = undo_attempts + 1, "
    "undo_begun_at = coalesce(undo_begun_at, clock_timestamp()), "
    "undo_number = coalesce(undo_number, nextval(pg_get_serial_sequence('order_step', 'number'))) "
    "WHERE step = :step AND order_id = ANY(CAST(:ids AS text[])) RETURNING order_id, undo_number, undo_attempts"
)
_RECORD_UNDO = text(
    "UPDATE order_step s SET undo_status = r.status, undo_due = (r.status <> 'done'), undo_result = r.result, "
    # What an earlier try has found out, such as how often the gateway refused, is still so after one that was only not answered.
    "undo_error = CASE WHEN r.error IS NOT NULL THEN coalesce(s.undo_error, '{}') || r.error END, "
    # One that was given up before its try was written down has its place in the sequence, too.
    "undo_number = coalesce(s.undo_number, nextval(pg_get_serial_sequence('order_step', 'number'))), undo_ended_at = clock_timestamp() "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, status text, result jsonb, error jsonb) "
    "WHERE s.step = :step AND s.order_id = r.order_id RETURNING s.order_id, s.undo_number"
)
_MARK_DUE = text("UPDATE order_step SET undo_due = true WHERE step = :step AND order_id = ANY(CAST(:ids AS text[]))")
# All there are, from an index that has nothing else in it: next to nothing, however many orders a batch has.
_ASKED_TO_STOP = text("SELECT id, cancel_reason FROM customer_order WHERE cancel_requested_at IS NOT NULL AND outcome IS NULL LIMIT 10000")


@dataclass(slots=True)
class Record:
    """What is to be written about one order's step, or about its compensation."""

    under_way: OrderUnderWay
    step: str
    status: str
    """`begun`, `done` or `failed`."""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    undo_due: bool = False
    again: bool = True
    """Whether this is an attempt of its own, and not the end of one that was written as begun."""
    began: float | None = None
    ended: float | None = None
    """When, by `time.monotonic()`; None: as it is written."""


async def take(
    lease: UUID,
    *,
    most: int,
    ids: Sequence[str] | None = None,
    begun: bool = False,
    flow_run_id: str | None = None,
    known: Collection[str] | None = None,
    alone: bool = True,
    survived: int = 0,
) -> list[OrderUnderWay]:
    """A `claim` in a transaction of its own. If one order spoils it for all, each is claimed by itself, and the culprit is set aside for
    a growing pause."""
    try:
        async with transaction(CLAIMING) as tx:
            return await claim(
                tx, lease, most=most, ids=ids, begun=begun, flow_run_id=flow_run_id, known=known, alone=alone, survived=survived
            )
    except Exception as error:
        if not may_be_one_orders(error):
            raise
        log.exception("up to %d orders could not be claimed together: each is claimed by itself", most)
    suspected: list[str] = []
    if ids is None:
        async with transaction() as tx:
            rows = (await tx.execute(_ONE_BY_ONE, {"most": most, "begun": begun})).all()
        ids, suspected = [row.id for row in rows if not row.suspected], [row.id for row in rows if row.suspected]
    claimed: list[OrderUnderWay] = []
    for order_id in ids:
        claimed += await _claim_or_set_aside(lease, order_id, flow_run_id, known)
    if claimed or not alone:
        return claimed
    for order_id in suspected:  # one at most, and nothing beside it
        if claimed := await _claim_or_set_aside(lease, order_id, flow_run_id, known):
            claimed[0].on_trial = True
            return claimed
    return []


async def _claim_or_set_aside(lease: UUID, order_id: str, flow_run_id: str | None, known: Collection[str] | None) -> list[OrderUnderWay]:
    try:
        async with transaction(CLAIMING) as tx:
            return await claim(tx, lease, most=1, ids=[order_id], flow_run_id=flow_run_id, known=known)
    except Exception as error:
        if not may_be_one_orders(error):
            raise
        log.exception("order %s cannot be claimed: it is set aside", order_id)
    async with transaction(CLAIMING) as tx:
        await set_aside(tx, order_id)
    return []


async def set_aside(tx: Tx, order_id: str) -> None:
    """Lets an order that nobody holds wait for a while, which grows with each time."""
    await tx.execute(_SET_ASIDE, {"id": order_id, "longest": LONGEST_ASIDE_SECONDS})


async def claim(
    tx: Tx,
    lease: UUID,
    *,
    most: int,
    ids: Sequence[str] | None = None,
    begun: bool = False,
    flow_run_id: str | None = None,
    known: Collection[str] | None = None,
    alone: bool = True,
    survived: int = 0,
) -> list[OrderUnderWay]:
    """Takes up to `most` open orders that nobody holds, oldest first: waiting ones, and those whose lease ran out.

    Orders whose workers died again and again are taken without the others (`on_trial`), fewer of them after each death and at last one,
    so that it shows which of them is the cause. Meanwhile the worker must have nothing else in hand. `alone`: whether that is so now.
    `survived`: how many trials this worker has come through; after each it takes twice as many.

    `ids`: only these. `begun`: only those that some worker had begun with. `known`: the steps of this worker's saga; an order with
    another step in its journal is left to a worker of the version that has it.
    """
    statement = _CLAIM_THESE if ids is not None else _CLAIM_BEGUN if begun else _CLAIM_ANY
    parameters: dict[str, Any] = {"lease": lease, "most": most, "run": flow_run_id, "leases": await lock_dead_leases(tx)}
    parameters |= {"known": None if known is None else list(known), "stranger": UnknownStep.code}
    if ids is not None:
        parameters["ids"] = list(ids)
    elif alone and (on_trial := await _claim_suspected(tx, lease, parameters, known, survived)):
        return on_trial
    return await _claim_known(tx, lease, statement, parameters, known)


async def _claim_suspected(
    tx: Tx, lease: UUID, parameters: dict[str, Any], known: Collection[str] | None, survived: int
) -> list[OrderUnderWay]:
    which = {name: parameters[name] for name in ("leases", "stranger")}
    oldest = (await tx.execute(_OLDEST_SUSPECTED, which)).one_or_none()
    if oldest is None:
        return []
    if oldest.alone:
        only = {**parameters, "ids": [oldest.id]}
        claimed = await _claim_known(tx, lease, _CLAIM_THESE, only, known)
    else:
        fewer = max(1, parameters["most"] // _FEWER ** min(oldest.takeovers - 1, 6))
        limits = {"takeovers": oldest.takeovers, "most": min(parameters["most"], fewer << min(survived, 20))}
        claimed = await _claim_known(tx, lease, _CLAIM_SUSPECTED, {**parameters, **limits}, known)
    for order in claimed:
        order.on_trial = True
    return claimed


async def _claim_known(
    tx: Tx, lease: UUID, statement: TextClause, parameters: dict[str, Any], known: Collection[str] | None
) -> list[OrderUnderWay]:
    while claimed := await _claim(tx, lease, statement, parameters):
        strangers = [order for order in claimed if known is not None and not order.journal.keys() <= set(known)]
        if strangers:
            await leave_to_another_version(tx, strangers, known or ())
        if mine := [order for order in claimed if order not in strangers]:
            return mine
    return []


async def leave_to_another_version(tx: Tx, orders: Sequence[OrderUnderWay], known: Collection[str]) -> None:
    """Hands the orders back and marks them: only a worker that knows all their steps claims them from now on."""
    runs = {"ids": [order.id for order in orders], "runs": [order.left_by for order in orders]}
    await tx.execute(_LEAVE, {**runs, "code": UnknownStep.code})
    for order in orders:
        unknown = UnknownStep(step for step in order.journal if step not in known)
        after_commit(tx, partial(log.warning, "order %s is left to another worker: %s", order.id, unknown))


async def _claim(tx: Tx, lease: UUID, statement: TextClause, parameters: dict[str, Any]) -> list[OrderUnderWay]:
    rows = await tx.execute(statement, parameters)
    claimed = sorted(rows.mappings().all(), key=lambda row: int(row["number"]))
    orders = [
        OrderUnderWay(
            row["id"],
            row["content"],
            row["fence"],
            lease,
            row["takeovers"],
            row["lone_deaths"],
            left_by=row["left_by"],
            left_behind=row["left_behind"],
            submitted_at=row["submitted_at"],
            cancel_reason=row["cancel_reason"],
        )
        for row in claimed
    ]
    for order, row in zip(orders, claimed, strict=True):
        if row["failure"] is not None:
            order.fail(row["failing_step"], RecordedFailure(row["failure"]))
    await load(tx, [order for order in orders if order.fence > 1])
    return orders


async def lock_dead_leases(tx: Tx) -> list[UUID]:
    """The leases that ran out, locked until the transaction ends, and marked: should their holders wake up, they look at each order's
    fence before they write."""
    leases = list((await tx.execute(_DEAD_LEASES)).scalars().all())
    if leases:
        await tx.execute(_TAKEN_FROM, {"leases": leases})
    return leases


async def oldest_claimable(tx: Tx) -> tuple[str, int, bool] | None:
    """The oldest order that anybody could claim now, with its fence, and whether only a worker that has nothing else in hand could; None
    if no order waits."""
    row = (await tx.execute(_OLDEST_CLAIMABLE)).one_or_none()
    return None if row is None else (row.id, row.fence, row.suspected)


async def in_live_hands(tx: Tx, *, most: int) -> int:
    """How many open orders, counted up to `most`, are under leases that were renewed a moment ago: their holders live."""
    parameters = {"renewed": settings().lease_seconds * RENEWED, "most": most}
    count: int = (await tx.execute(_IN_LIVE_HANDS, parameters)).scalar_one()
    return count


async def lease_left(tx: Tx, flow_run_id: str) -> float | None:
    """Seconds (below 0: it is over) that the lease on this run's open orders lasts; None if there are none."""
    left: float | None = (await tx.execute(_LEASE_OF_RUN, {"run": flow_run_id})).scalar()
    return left


async def load(tx: Tx, orders: Sequence[OrderUnderWay]) -> None:
    """Reads the orders' journals anew: after a claim, or when it is unclear whether a commit arrived."""
    if not orders:
        return
    by_id = {order.id: order for order in orders}
    rows = (await tx.execute(_LOAD, {"ids": list(by_id)})).mappings().all()  # may fail: then nothing is forgotten
    remembered = {order.id: {step: order.journal[step] for step in order.unwritten} for order in orders}
    for order in orders:
        order.journal = {}
    for row in rows:
        fields = dict(row)
        order_id = fields.pop("order_id")
        by_id[order_id].journal[row["step"]] = Entry(**fields)
    for order in orders:  # what was done and is not written yet is not forgotten
        for step, entry in remembered[order.id].items():
            if step in order.journal and order.journal[step].attempts >= entry.attempts:
                del order.unwritten[step]
            else:
                order.journal[step] = entry


async def hold(tx: Tx, orders: Iterable[OrderUnderWay]) -> list[OrderUnderWay]:
    """Makes sure that nobody can claim the orders until the transaction ends. Those that another worker has claimed before are marked
    lost and left out."""
    mine = [order for order in orders if not order.lost]
    for lease in {order.lease for order in mine}:
        taken_from = (await tx.execute(_HOLD_LEASE, {"lease": lease})).scalar()
        if taken_from is not False:  # or the lease is gone
            await _look_at_fences(tx, [order for order in mine if order.lease == lease], gone=taken_from is None)
    return [order for order in mine if not order.lost]


async def _look_at_fences(tx: Tx, orders: Sequence[OrderUnderWay], *, gone: bool) -> None:
    rows = await tx.execute(_STILL_MINE, {"ids": [order.id for order in orders], "fences": [order.fence for order in orders]})
    held = set() if gone else {(row.id, row.fence) for row in rows.all()}
    for order in orders:
        order.lost = (order.id, order.fence) not in held


def remember(records: Iterable[Record]) -> None:
    """Notes the end of steps that changed nothing; it is written together with what comes next. A crash before costs doing them again."""
    for record in records:
        _know(record)
        record.under_way.unwritten[record.step] = record


async def write(tx: Tx, records: Sequence[Record]) -> None:
    """Writes one row for each record, after what its order has yet unwritten."""
    for record in records:
        _know(record)
        record.under_way.unwritten.pop(record.step, None)
    rows: list[Record] = []
    for record in records:
        rows += [*record.under_way.unwritten.values(), record]
    await _write(tx, rows)


async def write_remembered(tx: Tx, orders: Iterable[OrderUnderWay]) -> None:
    """Writes what the orders have yet unwritten."""
    await _write(tx, [record for order in orders for record in order.unwritten.values()])


async def _write(tx: Tx, records: Sequence[Record]) -> None:
    if not records:
        return
    now = time.monotonic()
    await tx.execute(_UPSERT, {"rows": as_json([_row(record, now) for record in records])})

    def written() -> None:
        for record in records:
            if record.under_way.unwritten.get(record.step) is record:
                del record.under_way.unwritten[record.step]

    after_commit(tx, written)


def _know(record: Record) -> None:
    journal, step = record.under_way.journal, record.step
    old = journal.get(step)
    number = old.number if old and old.undo_status != "done" else 1 + max((entry.number for entry in journal.values()), default=0)
    attempts = (old.attempts if old else 0) + (1 if record.again else 0)
    notes = old.notes if old else {}
    journal[step] = Entry(step, record.status, number, attempts, notes, record.result, record.error, record.undo_due)


def _row(record: Record, now: float) -> dict[str, Any]:
    return {
        "order_id": record.under_way.id,
        "step": record.step,
        "status": record.status,
        "attempts": record.under_way.journal[record.step].attempts,
        "result": record.result,
        "error": record.error,
        "undo_due": record.undo_due,
        "begun_ago": now - record.began if record.began else 0.0,
        "ended_ago": now - record.ended if record.ended else 0.0,
    }


async def note(tx: Tx, notes: Sequence[tuple[OrderUnderWay, str, dict[str, Any]]]) -> None:
    """Adds to the notes of steps that have begun: (order, step, facts)."""
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for order, step, facts in notes:
        together.setdefault((order.id, step), {}).update(facts)
    rows = [{"order_id": order_id, "step": step, "notes": facts} for (order_id, step), facts in together.items()]
    await tx.execute(_NOTE, {"rows": as_json(rows)})
    for order, step, facts in notes:
        order.journal[step].notes = {**order.journal[step].notes, **facts}


async def begin_undo(tx: Tx, step: str, orders: Sequence[OrderUnderWay]) -> None:
    """Says that the compensation is being tried."""
    rows = await tx.execute(_BEGIN_UNDO, {"step": step, "ids": [order.id for order in orders]})
    begun = {row.order_id: (row.undo_number, row.undo_attempts) for row in rows.all()}
    for order in orders:
        entry = order.journal[step]
        if order.id in begun:  # else its own commit never arrived: there is nothing to undo, which the compensation finds out
            entry.undo_status, (entry.undo_number, entry.undo_attempts) = "begun", begun[order.id]


async def write_undo(tx: Tx, step: str, records: Sequence[Record]) -> None:
    """Says how the compensation ended: `done`, and it is no longer due, or `failed`, and it is."""
    if not records:
        return
    rows = [{"order_id": r.under_way.id, "status": r.status, "result": r.result, "error": r.error} for r in records]
    written = await tx.execute(_RECORD_UNDO, {"step": step, "rows": as_json(rows)})
    numbers = {row.order_id: row.undo_number for row in written.all()}
    for r in records:
        entry = r.under_way.journal[step]
        entry.undo_number = numbers.get(r.under_way.id, entry.undo_number)
        entry.undo_status, entry.undo_result, entry.undo_due = r.status, r.result, r.status != "done"
        entry.undo_error = {**(entry.undo_error or {}), **r.error} if r.error is not None else None


async def mark_due(tx: Tx, step: str, orders: Sequence[OrderUnderWay]) -> None:
    """Says that the step is to be undone, although it is not of those that are undone by themselves."""
    await tx.execute(_MARK_DUE, {"step": step, "ids": [order.id for order in orders]})
    for order in orders:
        order.journal[step].undo_due = True


async def asked_to_stop(tx: Tx, orders: Iterable[OrderUnderWay]) -> dict[OrderUnderWay, OrderCancelled]:
    """Those of the orders that are to be cancelled. A courtesy, so that nothing is begun in vain: shipping is what must not miss any."""
    asked = {row.id: row.cancel_reason for row in (await tx.execute(_ASKED_TO_STOP)).all()}
    return {order: OrderCancelled(asked[order.id]) for order in orders if order.id in asked} if asked else {}
