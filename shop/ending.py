"""Giving orders their outcome: one transaction, after which nobody works on them any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text

from shop import journal
from shop.database import as_json, transaction
from shop.errors import OrderRejected, OutOfStock
from shop.notifications import outbox
from shop.outcomes import Outcome, Undone
from shop.payments.charge import money_moved
from shop.points import effect
from shop.saga import Saga
from shop.signals import FINISHED
from shop.under_way import OrderUnderWay

_FINISHING, _REMEMBERING, _PUTTING_OFF = (effect(f"the commit of {what}") for what in ("outcomes", "failures", "putting off"))
_FINISH = text(
    """
    UPDATE customer_order o
    SET outcome = r.outcome, status = r.outcome, failing_step = r.failing_step, reasons = r.reasons, undone = r.undone,
        currency = r.currency, amount_charged = r.charged, amount_refunded = r.refunded, amount_at_risk = r.at_risk,
        lease_id = NULL, finished_at = clock_timestamp()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        id text, outcome text, failing_step text, reasons jsonb, undone jsonb, currency text,
        charged numeric, refunded numeric, at_risk numeric)
    WHERE o.id = r.id AND o.outcome IS NULL
    RETURNING o.id
    """
)
_REMEMBER = text(
    "UPDATE customer_order o SET failing_step = r.step, failure = r.failure "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, step text, failure jsonb) WHERE o.id = r.id"
)
_TELL = text("SELECT pg_notify(:channel, '')")
_LATER = text(
    "UPDATE customer_order SET lease_id = NULL, not_before = now() + make_interval(secs => :seconds) WHERE id = ANY(CAST(:ids AS text[])) "
    "AND outcome IS NULL"
)
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
        case OutOfStock.code if not undone:
            return Outcome.OUT_OF_STOCK
        case _:
            return Outcome.COMPENSATED


async def remember_failures(orders: Sequence[OrderUnderWay]) -> None:
    """Writes down why these orders are undone, before the undoing begins, so that whoever takes over goes on with it."""
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


async def finish(orders: Sequence[OrderUnderWay], saga: Saga) -> dict[str, Outcome]:
    """Writes the outcomes of those orders that are still this worker's; the customer of a refund hears of it from here on."""
    async with transaction(_FINISHING) as tx:
        held = await journal.hold(tx, orders)
        rows: list[dict[str, Any]] = []
        refunds: list[outbox.Message] = []
        ended: set[str] = set()
        for order in held:
            undone = _undone(order, saga) if order.failure else []
            outcome = outcome_of(order, undone)
            charged, refunded, at_risk = money_moved(order)
            currency = str(order.content.get("currency", "USD"))[:10]
            rows.append(
                {
                    "id": order.id,
                    "outcome": outcome,
                    "failing_step": order.failing_step,
                    "reasons": order.failure.reasons() if order.failure else [],
                    "undone": [u.model_dump(mode="json") for u in undone],
                    "currency": currency,
                    "charged": charged,
                    "refunded": refunded,
                    "at_risk": at_risk,
                }
            )
            if refunded > 0:
                refunds.append(outbox.Message(order.id, outbox.Kind.REFUND, {"amount": str(refunded), "currency": currency}))
        if rows:
            await journal.write_remembered(tx, held)
            ended = set((await tx.execute(_FINISH, {"rows": as_json(rows)})).scalars().all())
            await outbox.put(tx, [message for message in refunds if message.order_id in ended])
            await tx.execute(_TELL, {"channel": FINISHED})
    for order in held:
        order.lost = True  # nobody's any more
    return {row["id"]: row["outcome"] for row in rows if row["id"] in ended}


async def put_off(orders: Sequence[OrderUnderWay], seconds: float) -> None:
    """Hands orders back that could not be worked on just now; they are claimed again after a pause."""
    async with transaction(_PUTTING_OFF) as tx:
        held = await journal.hold(tx, orders)
        if held:
            await tx.execute(_LATER, {"ids": [order.id for order in held], "seconds": seconds})
            await tx.execute(_LOOK_CLOSER, {"leases": [order.lease for order in held]})
    for order in held:
        order.lost = True


def _undone(order: OrderUnderWay, saga: Saga) -> list[Undone]:
    names: Mapping[str, str] = {step.name: getattr(step.undo, "__name__", step.name) for step in saga if step.undo is not None}
    tried = sorted((entry for entry in order.journal.values() if entry.undo_number is not None), key=lambda entry: entry.undo_number or 0)
    undone = []
    for entry in tried:
        details = (entry.undo_result if entry.undo_status == "done" else entry.undo_error) or {}
        status = str(details.get("compensation_status", "success")) if entry.undo_status == "done" else "failed"
        undone.append(Undone(step=entry.step, compensation=names.get(entry.step, entry.step), status=status, details=details))
    return undone
