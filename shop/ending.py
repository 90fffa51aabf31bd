"""Giving orders their outcome: one transaction, after which nobody works on them any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from shop import inventory, journal, tally
from shop.database import Tx, as_json, transaction
from shop.desk import attention
from shop.errors import GivenUp, OrderError, OrderRejected, OutOfStock
from shop.money import currency_of
from shop.notifications.notices import Notice, tell
from shop.notifications.outcome_notices import notice_of
from shop.outcomes import Outcome, Undone
from shop.payments.charge import given_by_hand, money_moved
from shop.points import effect
from shop.saga import Saga
from shop.signals import FINISHED
from shop.stock import saga as stock
from shop.tally import Ended
from shop.turns import in_turns
from shop.under_way import OrderUnderWay

log = logging.getLogger(__name__)
_FINISHING, _REMEMBERING, _PUTTING_OFF = (effect(f"the commit of {what}") for what in ("outcomes", "failures", "putting off"))
_FINISH = text(
    """
    UPDATE customer_order o
    SET outcome = r.outcome, status = r.outcome, failing_step = r.failing_step, reasons = r.reasons, undone = r.undone,
        currency = r.currency, amount_charged = r.charged, amount_refunded = r.refunded, amount_at_risk = r.at_risk,
        lease_id = NULL, finished_at = clock_timestamp()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        id text, outcome text, failing_step text, reasons jsonb, undone jsonb, currency text,
        charged numeric, refunded numeric, at_risk numeric, fence bigint)
    WHERE o.id = r.id AND o.fence = r.fence AND o.outcome IS NULL AND (r.outcome <> 'completed' OR o.cancel_requested_at IS NULL)
    RETURNING o.id
    """
)
_REMEMBER = text(
    "UPDATE customer_order o SET failing_step = r.step, failure = r.failure "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, step text, failure jsonb) WHERE o.id = r.id"
)
_TELL = text("SELECT pg_notify(:channel, '')")
LAST_SECONDS = 120
"""So long after its last pause an order that was put off, and has no outcome, still counts as waiting for what it was put off for."""
# Only what is still under one of these leases: after a commit that was not heard of, an order may have ended, and may be another's again.
# No long pause for what is to be cancelled, nor for what the gateway told something of while its worker was about to put it off.
_LATER = text(
    """
    UPDATE customer_order o SET lease_id = NULL, waits_for = :why,
        waits_since = CASE WHEN CAST(:why AS text) IS NULL THEN NULL
            WHEN waits_for = :why AND not_before > now() - make_interval(secs => :last) THEN waits_since ELSE now() END,
        not_before = now() + make_interval(secs => CASE
            WHEN cancel_requested_at IS NOT NULL OR EXISTS (SELECT 1 FROM payment_event e WHERE e.order_id = o.id AND e.handled_at IS NULL
                AND e.received_at > now() - interval '5 seconds') THEN least(:seconds, 1) ELSE :seconds END)
    WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NULL AND lease_id = ANY(CAST(:leases AS uuid[]))
    """
)
_WAIT_IF_IT_DIES = text("UPDATE customer_order SET not_before = now() + make_interval(secs => :seconds) WHERE id = :id AND outcome IS NULL")
# From now on its holder looks at each order's fence: somebody may still be on its way with one of these.
_LOOK_CLOSER = text("UPDATE lease SET taken_from = true WHERE id = ANY(CAST(:leases AS uuid[]))")


def outcome_of(order: OrderUnderWay, undone: Sequence[Undone]) -> Outcome:
    """Where an order ends, given what failed and what is still to be undone."""
    if order.failure is not None and order.undo_plan():
        return Outcome.NEEDS_ATTENTION
    match order.failure.kind if order.failure else None:
        case None:
            return Outcome.COMPLETED
        case OrderRejected.code:
            return Outcome.REJECTED
        case OutOfStock.code if not [each for each in undone if not _found_nothing(each)]:
            return Outcome.OUT_OF_STOCK
        case _:
            return Outcome.COMPENSATED


def _found_nothing(undone: Undone) -> bool:
    """An inventory service that has said no is told all the same that the order is over."""
    return undone.step == inventory.STEP and undone.status == "no_reservation_to_release"


async def remember_failures(orders: Sequence[OrderUnderWay], *, pivot: str | None = None) -> None:
    """Writes down why these orders are undone, before the undoing begins, so that whoever takes over goes on with it. Of those that are
    past the pivot, that is undone too: they come back."""
    async with transaction(_REMEMBERING) as tx:
        held = await journal.hold(tx, orders)
        rows = [
            {"id": o.id, "step": o.failing_step, "failure": {**o.failure.details(), "reasons": o.failure.reasons()}}
            for o in held
            if o.failure
        ]
        if rows:
            await journal.write_remembered(tx, held)
            await tx.execute(_REMEMBER, {"rows": as_json(rows)})
        if pivot is not None and (returning := [order for order in held if order.done(pivot)]):
            await journal.mark_due(tx, pivot, returning)


async def give_up_undoing(orders: Sequence[OrderUnderWay]) -> None:
    """Writes down that the compensations that are due cannot be done: trying them stops whoever does."""
    async with transaction(_REMEMBERING) as tx:
        for order in await journal.hold(tx, orders):
            error = GivenUp(order.lone_deaths).details()
            for step in order.undo_plan():
                await journal.write_undo(tx, step, [journal.Record(order, step, "failed", error=error)])


async def finish(orders: Sequence[OrderUnderWay], saga: Saga) -> dict[str, Outcome]:
    """Writes the outcomes of those orders that are still this worker's; customers hear of their ends from here on, and a person
    of what could not be undone. A shipped order that is to be cancelled gets none: it is handed back, to be returned."""
    endings = {order: _ending(order, saga) async for order in in_turns(order for order in orders if not order.lost)}
    async with transaction(_FINISHING) as tx:
        held = await journal.hold(tx, orders)
        mine = [endings[order] for order in held]
        rows = [ending.row for ending in mine]
        ended: set[str] = set()
        if rows:
            await journal.write_remembered(tx, held)
            ended = set((await tx.execute(_FINISH, {"rows": as_json(rows)})).scalars().all())
            mine = [ending for ending in mine if ending.row["id"] in ended]
            await tell(tx, [ending.notice for ending in mine if ending.notice is not None])
            await attention.put(tx, [ending.matter for ending in mine if ending.matter is not None])
            await attention.clear(tx, [ending.row["id"] for ending in mine if ending.row["outcome"] is Outcome.COMPENSATED])
            if len(ended) < len(held):
                await _hand_back(tx, [order for order in held if order.id not in ended], seconds=0)
            await tx.execute(_TELL, {"channel": FINISHED})
    if (counts := tally.current()) is not None:
        counts.add([_ended(row, order) for row, order in zip(rows, held, strict=True) if order.id in ended])
    for order in held:
        order.lost = True  # it has ended, so this worker holds it no longer
    return {row["id"]: row["outcome"] for row in rows if row["id"] in ended}


@dataclass(frozen=True, slots=True)
class _Ending:
    """What is written of an order's end."""

    row: dict[str, Any]
    notice: Notice | None
    matter: attention.Matter | None


def _ending(order: OrderUnderWay, saga: Saga) -> _Ending:
    undone = _undone(order, saga) if order.failure else []
    outcome = outcome_of(order, undone)
    charged, refunded, at_risk = money_moved(order)
    currency = currency_of(order.content)
    row = {
        "id": order.id,
        "outcome": outcome,
        "failing_step": order.failing_step,
        "reasons": order.failure.reasons() if order.failure else [],
        "undone": [u.model_dump(mode="json") for u in undone],
        "currency": currency,
        "charged": charged,
        "refunded": refunded,
        "at_risk": at_risk,
        "fence": order.fence,
    }
    given_back = refunded + given_by_hand(order)
    notice = notice_of(order, outcome, charged=charged, given_back=given_back, at_risk=at_risk, currency=currency)
    matter = attention.matter_of(order, at_risk, currency) if outcome is Outcome.NEEDS_ATTENTION else None
    return _Ending(row, notice, matter)


def _ended(row: Mapping[str, Any], order: OrderUnderWay) -> Ended:
    code = order.failure.kind if order.failure else None
    return Ended(order.id, row["outcome"], order.failing_step, code, row["currency"], row["charged"], row["refunded"], row["at_risk"])


async def put_off(orders: Sequence[OrderUnderWay], seconds: float, *, keep_stock: bool = False, why: str | None = None) -> None:
    """Hands orders back that could not be worked on just now; they are claimed again after a pause. `keep_stock`: what is reserved for
    them stays so until then, and `RESERVATION_MINUTES` longer. `why`: the code of what they wait for, if it is something outside."""
    if keep_stock:
        await asyncio.gather(*(_keep_at_service(order, seconds) for order in orders))
    async with transaction(_PUTTING_OFF) as tx:
        held = await journal.hold(tx, orders)
        if held:
            await _hand_back(tx, held, seconds, why)
        if held and keep_stock:
            await inventory.keep(tx, [order.id for order in held], seconds)
    for order in held:
        order.lost = True


async def wait_if_it_dies(order: OrderUnderWay, seconds: float) -> None:
    """Sets the pause after which another worker may claim the order if this worker dies. This worker keeps the order."""
    async with transaction(_PUTTING_OFF) as tx:
        if await journal.hold(tx, [order]):
            await tx.execute(_WAIT_IF_IT_DIES, {"id": order.id, "seconds": float(seconds)})


async def _keep_at_service(order: OrderUnderWay, seconds: float) -> None:
    """A service that does not hear it lets the reservation run out, and the order reserves anew when it goes on."""
    try:
        await stock.keep(order, seconds)
    except OrderError as error:
        log.warning("what order %s holds may run out at the inventory service (%s)", order.id, error.code)


async def _hand_back(tx: Tx, held: Sequence[OrderUnderWay], seconds: float, why: str | None = None) -> None:
    leases, waiting = list({order.lease for order in held}), {"why": why, "last": LAST_SECONDS}
    await tx.execute(_LATER, {"ids": [order.id for order in held], "seconds": float(seconds), "leases": leases, **waiting})
    await tx.execute(_LOOK_CLOSER, {"leases": leases})


def _undone(order: OrderUnderWay, saga: Saga) -> list[Undone]:
    names: Mapping[str, str] = {step.name: getattr(step.undo, "__name__", step.name) for step in saga if step.undo is not None}
    tried = sorted((entry for entry in order.journal.values() if entry.undo_number is not None), key=lambda entry: entry.undo_number or 0)
    undone = []
    for entry in tried:
        details = (entry.undo_result if entry.undo_status == "done" else entry.undo_error) or {}
        status = str(details.get("compensation_status", "success")) if entry.undo_status == "done" else "failed"
        undone.append(Undone(step=entry.step, compensation=names.get(entry.step, entry.step), status=status, details=details))
    return undone
