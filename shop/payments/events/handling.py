"""Handling one of the gateway's events: what it hints at is looked up, judged as reconciliation judges it, and mended by the same hands.

An event never says what is done, only where to look. Handled twice, late, or in another sequence it finds the same, or that nothing is
left to do.
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
from shop.payments.events.event import PaymentEvent
from shop.payments.gateway import PaymentGateway
from shop.payments.stripe.disputes import DisputeRecord, look_up, to_dispute
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.reconciliation.known_payments import known_payments
from shop.reconciliation.reconcile import compare_order
from shop.review.errors import AlreadyResolved, NotUnderReview
from shop.review.resolution import Resolution, decision, resolve
from shop.settings import settings
from shop.values.money import show

_NOT_OURS = "not a payment of ours: somebody else's in the same account"
_NEVER = frozenset({"no_such_payment", "no_such_dispute", "resource_missing"})
"""Asking again would bring nothing else."""
_NOT_ALLOWED = frozenset({"permission", "http_404"})
_ORDER = text(
    "SELECT o.outcome, s.notes ->> 'payment_id' AS payment_id, a.next_retry_at IS NULL AS held FROM customer_order o "
    "LEFT JOIN order_step s ON s.order_id = o.id AND s.step = :step LEFT JOIN attention a ON a.order_id = o.id WHERE o.id = :id"
)
_ANY_TIME = datetime.max.replace(tzinfo=UTC)
"""No grace: our side is read first, and an order that has ended moves no more."""


@dataclass(frozen=True, slots=True)
class Handled:
    """How it went, for whoever shows it."""

    done: str | None
    """In words. None: it waits, for its order to end or for the gateway."""
    order_id: str | None = None
    found: Sequence[Discrepancy] = ()
    reopened: bool = False
    """The order is open again, to be undone by the saga."""
    review_changed: bool = False


async def handle(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    """Does what the event hints at, and writes down what that was. What the gateway cannot say now is asked again later.

    Raises database trouble: nothing is written then, and the event is handled again.
    """
    try:
        return await (_dispute(event, gateway) if event.is_dispute else _payment(event, gateway))
    except PaymentError as error:
        if error.error_code in _NEVER:
            return await _end(event, f"nothing to look at: {error}")
        await inbox.try_later(event, str(error))
        return Handled(None, event.order_id)


async def _payment(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    if event.payment_id is None:
        return await _end(event, "about no payment")
    order_id = (await gateway.get(event.payment_id)).order_id
    if not order_id:
        return await _end(event, _NOT_OURS)
    row = await _look(order_id)
    known = known_payments(gateway, [event.payment_id, row.payment_id if row else None])
    found = await compare_order(order_id, known, _ANY_TIME, fix=True)
    row = await _look(order_id)
    if row is not None and row.outcome is None:  # judged once it has ended
        await inbox.postpone(event, order_id)
        return Handled(None, order_id)
    reopened = False
    if row is not None and row.outcome == Outcome.NEEDS_ATTENTION and any(each.kind is Kind.REFUND_UNKNOWN_TO_US for each in found):
        reopened = await _try_again(event, order_id, known, held=row.held)
    done = "tried again: it was given back at the gateway" if reopened else _in_words(found)
    review_changed = any(each.repairable or each.remark for each in found)  # a refund may have been refused, or be gone
    return await _end(event, done, order_id=order_id, found=found, reopened=reopened, review_changed=review_changed)


async def _try_again(event: PaymentEvent, order_id: str, gateway: PaymentGateway, *, held: bool) -> bool:
    """Lets the saga find a refund that somebody made at the gateway. An order that is held is left alone while money is left that trying
    again would give back: a person is about to pay it in another way."""
    kept = sum((payment.kept for payment in await gateway.find(order_id)), Decimal(0))
    if held and kept > 0:
        return False
    told = decision(
        order_id,
        Resolution.RETRY_NOW,
        resolved_by="the payment gateway",
        reference=event.id,
        reason="refunded in its own dashboard",
        started_by=f"payment event {event.id}",
    )
    try:
        return await resolve(told)
    except (AlreadyResolved, NotUnderReview):
        return False


async def _dispute(event: PaymentEvent, gateway: PaymentGateway) -> Handled:
    told = to_dispute(DisputeRecord.model_validate(event.dispute))
    as_of, how = event.happened_at, "by the event, for the gateway does not show it"
    if settings().payments.gateway == "stripe":
        now = await database_time()
        try:
            told, as_of, how = await look_up(told.id), now, "looked up"
        except PaymentError as error:
            if error.error_code not in _NEVER | _NOT_ALLOWED:
                raise
    order_id = await _whose(told.payment_id, gateway)
    if order_id == "":
        return await _end(event, _NOT_OURS)
    amount = show(told.amount, told.currency)
    done = f"dispute of {amount} ({told.reason}) is {told.status}, {how}"
    await inbox.end_dispute(event, done, dispute=told, as_of=as_of, order_id=order_id)
    return Handled(done, order_id, review_changed=True)


async def _whose(payment_id: str | None, gateway: PaymentGateway) -> str | None:
    """The order's id; empty if the payment is not ours, None if that cannot be known. All payments of ours have an id."""
    if payment_id is None:
        return ""
    try:
        return (await gateway.get(payment_id)).order_id
    except PaymentError as error:
        if error.error_code in _NEVER:
            return None
        raise


async def _look(order_id: str) -> Any:
    async with transaction() as tx:
        return (await tx.execute(_ORDER, {"id": order_id, "step": STEP})).one_or_none()


async def _end(event: PaymentEvent, done: str, **more: Any) -> Handled:
    await inbox.end(event, done, order_id=more.get("order_id"))
    return Handled(done, more.pop("order_id", event.order_id), **more)


def _in_words(found: Sequence[Discrepancy]) -> str:
    if not found:
        return "in order"
    return "; ".join(
        f"{each.kind.value.replace('_', ' ')}: {'repaired' if each.repaired else each.remark or 'needs a person'}" for each in found
    )
