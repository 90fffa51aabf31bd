"""Handles a payment event: looks up the payment, and reconciles it with the code of the reconciliation flow.

An event never decides what to do, only what to look up. Therefore handling it twice, late or out of sequence
is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga.clock import database_time
from saga.database import transaction
from shop.orders.outcomes import Outcome
from shop.payments.charge import STEP
from shop.payments.errors import PaymentError
from shop.payments.events import inbox
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateway import PaymentGateway
from shop.payments.settled import GATEWAY_SETTLED
from shop.payments.stripe.disputes import DisputeRecord, look_up, to_dispute
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.reconciliation.reconcile import compare_order, known_payments
from shop.review.errors import AlreadyResolved, NotUnderReview
from shop.review.resolution import Resolution, decision, resolve
from shop.settings import settings
from shop.values.money import show

_NOT_OURS = "not this installation's payment: another user of the same gateway account created it"
_NEVER = frozenset({"no_such_payment", "no_such_dispute", "resource_missing"})
"""Error codes for which a retry is useless."""
_NOT_ALLOWED = frozenset({"permission", "http_404"})
_ORDER = text(
    f"""
    SELECT o.outcome, s.notes ->> 'payment_id' AS payment_id, a.next_retry_at IS NULL AS held,
        {GATEWAY_SETTLED} AS settled
    FROM customer_order o LEFT JOIN order_step s ON s.order_id = o.id AND s.step = :step
    LEFT JOIN attention a ON a.order_id = o.id WHERE o.id = :id
    """  # noqa: S608  (a constant)
)
_NO_GRACE_PERIOD = datetime.max.replace(tzinfo=UTC)
"""Compares payments of any age. Needs no grace period: our side is read first, and an ended order does not
change."""


@dataclass(frozen=True, slots=True)
class Handled:
    done: str | None
    """A description of the result. None: the event waits for its order to end, or for the gateway."""
    order_id: str | None = None
    found: Sequence[Discrepancy] = ()
    reopened: bool = False
    """Whether the order was reopened, so that the saga compensates it."""
    review_changed: bool = False


async def handle(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    """Handles the event and records the result. After a transient error of the gateway, it is retried later.

    Raises database errors: nothing is recorded then, and the event is handled again.
    """
    try:
        return await (_dispute(event, gateway) if event.is_dispute else _payment(event, gateway))
    except PaymentError as error:
        if error.error_code in _NEVER:
            return await _end(event, f"nothing to look up: {error}")
        await inbox.try_later(event, str(error))
        return Handled(None, event.order_id)


async def _payment(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    if event.payment_id is None:
        return await _end(event, "not about a payment")
    order_id = (await gateway.get(event.payment_id)).order_id
    if not order_id:
        return await _end(event, _NOT_OURS)
    row = await _load_order(order_id)
    known = known_payments(gateway, [event.payment_id, row.payment_id if row else None])
    found = await compare_order(order_id, known, _NO_GRACE_PERIOD, fix=True)
    row = await _load_order(order_id)
    if row is not None and row.outcome is None:  # compared once it has ended
        await inbox.postpone(event, order_id)
        return Handled(None, order_id)
    reopened = False
    if (
        row is not None
        and row.outcome == Outcome.NEEDS_ATTENTION
        and any(each.kind is Kind.REFUND_UNKNOWN_TO_US for each in found)
    ):
        reopened = await _retry_compensation(event, order_id, known, held=row.held, settled=row.settled)
    done = "compensation retried: it was refunded at the gateway" if reopened else _describe(found)
    # A refund may have been refused or cancelled.
    review_changed = any(each.repairable or each.remark for each in found)
    return await _end(
        event, done, order_id=order_id, found=found, reopened=reopened, review_changed=review_changed
    )


async def _retry_compensation(
    event: PaymentEvent, order_id: str, gateway: PaymentGateway, *, held: bool, settled: Decimal
) -> bool:
    """Retries the compensation, so that the saga finds a refund that was made at the gateway. Skips an order
    that is held if the retry would refund the rest: a person is about to refund it in another way."""
    kept = sum((payment.kept for payment in await gateway.find(order_id)), Decimal(0))
    if held and kept > settled:
        return False
    retry = decision(
        order_id,
        Resolution.RETRY_NOW,
        resolved_by="the payment gateway",
        reference=event.id,
        reason="refunded in its own dashboard",
        started_by=f"payment event {event.id}",
    )
    try:
        return await resolve(retry)
    except (AlreadyResolved, NotUnderReview):
        return False


async def _dispute(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    dispute = to_dispute(DisputeRecord.model_validate(event.dispute))
    as_of, how = event.happened_at, "according to the event, as the gateway does not show it"
    if settings().payments.gateway == "stripe":
        now = await database_time()
        try:
            dispute, as_of, how = await look_up(dispute.id), now, "looked up"
        except PaymentError as error:
            if error.error_code not in _NEVER | _NOT_ALLOWED:
                raise
    order_id = await _order_of(dispute.payment_id, gateway)
    if order_id == "":
        return await _end(event, _NOT_OURS)
    amount = show(dispute.amount, dispute.currency)
    done = f"dispute of {amount} ({dispute.reason}) is {dispute.status}, {how}"
    await inbox.end(event, done, order_id=order_id, dispute=(dispute, as_of))
    return Handled(done, order_id, review_changed=True)


async def _order_of(payment_id: str | None, gateway: PaymentGateway) -> str | None:
    """Returns the order's id; empty if the payment is not this installation's, None if that is unknown."""
    if payment_id is None:
        return ""
    try:
        return (await gateway.get(payment_id)).order_id
    except PaymentError as error:
        if error.error_code in _NEVER:
            return None
        raise


async def _load_order(order_id: str) -> Any:
    async with transaction() as tx:
        return (await tx.execute(_ORDER, {"id": order_id, "step": STEP})).one_or_none()


async def _end(event: PaymentEvent, done: str, **more: Any) -> Handled:
    await inbox.end(event, done, order_id=more.get("order_id"))
    return Handled(done, more.pop("order_id", event.order_id), **more)


def _describe(found: Sequence[Discrepancy]) -> str:
    if not found:
        return "in order"
    return "; ".join(
        f"{each.kind.value.replace('_', ' ')}: "
        f"{'repaired' if each.repaired else each.remark or 'needs a person'}"
        for each in found
    )
