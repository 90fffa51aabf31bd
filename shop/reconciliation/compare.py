"""Compares one order with the gateway's payments for it. Pure functions without I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from shop.orders.outcomes import Outcome
from shop.payments.gateway import Payment, PaymentStatus
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.values.money import show

_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class OurOrder:
    """What our database has about an order."""

    id: str
    outcome: Outcome | None
    """None: the order is in progress."""
    finished_at: datetime | None
    currency: str
    total: Decimal | None
    """The amount due at the gateway; None for an order that ended uncompleted."""
    charged: Decimal
    refunded: Decimal
    at_risk: Decimal
    settled: Decimal = _NOTHING
    """What a person refunded outside the gateway, or wrote off. The gateway rightly keeps it."""
    earlier: Decimal = _NOTHING
    """The part of `charged` and `refunded` that belongs to earlier tries, which have refunded all."""
    try_number: int = 1
    """The number of its current try."""


def discrepancies_of(
    order_id: str, ours: OurOrder | None, payments: Sequence[Payment], *, settled_before: datetime
) -> list[Discrepancy]:
    """Returns every discrepancy of one order, given all its payments.

    Skips an order that is in progress, and one that ended or had a payment moved after `settled_before`: the
    two sides may not be in step yet.
    """
    if any(payment.moved_at > settled_before for payment in payments):
        return []
    charges = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
    if ours is None:
        return list(_without_order(order_id, charges))
    if ours.outcome is None or ours.finished_at is None or ours.finished_at > settled_before:
        return []
    found = list(_COMPARISONS.get(ours.outcome, _uncompleted)(ours, charges))
    # Otherwise the open payment may be the missing charge.
    if not any(each.kind is Kind.NOT_CHARGED for each in found):
        found += _left(ours, payments)
    return found


def _without_order(order_id: str, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    for currency in sorted({payment.currency for payment in charges}):
        kept = [payment for payment in charges if payment.currency == currency and payment.kept > 0]
        if kept:
            amount = _sum(payment.kept for payment in kept)
            yield Discrepancy(
                Kind.CHARGED_WITHOUT_ORDER,
                ours="no such order",
                theirs=f"{show(amount, currency)} charged and not refunded",
                order_id=order_id,
                amount=amount,
                currency=currency,
                payment_ids=_ids(kept),
            )


def _completed(ours: OurOrder, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    describe = _Describer(ours, charges)
    # A payment that was refunded completely needs no attention if another one stands.
    standing = [payment for payment in charges if payment.kept > 0] or charges[:1]
    if ours.total == 0:  # others have taken all of it
        if kept := _sum(payment.kept for payment in charges):
            yield describe(Kind.AMOUNT_DIFFERS, kept)
    elif not standing:
        yield describe(Kind.NOT_CHARGED, ours.charged or ours.total or _NOTHING)
    elif foreign := [payment for payment in standing if payment.currency != ours.currency]:
        yield describe(Kind.CURRENCY_DIFFERS, _sum(payment.kept for payment in foreign), foreign[0].currency)
    elif len(standing) > 1:
        late = [payment for payment in standing if payment.try_number < ours.try_number]
        yield describe(
            Kind.CHARGED_MORE_THAN_ONCE,
            _sum(payment.kept for payment in standing) - (ours.charged - ours.refunded),
            # A refund that the bank has returned is repeated by a person only.
            repairable=len(standing) - len(late) == 1 and not _is_returned(ours, charges),
        )
    else:
        (payment,) = standing
        ours_charged, ours_refunded = ours.charged - ours.earlier, ours.refunded - ours.earlier
        if differences := [
            abs(payment.amount - recorded)
            for recorded in (ours_charged, ours.total or _NOTHING)
            if recorded != payment.amount
        ]:
            yield describe(Kind.AMOUNT_DIFFERS, differences[0])
        if payment.amount_refunded > ours_refunded:
            yield describe(Kind.REFUND_UNKNOWN_TO_US, payment.amount_refunded - ours_refunded)
        elif payment.amount_refunded < ours_refunded:
            yield describe(Kind.REFUND_UNKNOWN_TO_GATEWAY, ours_refunded - payment.amount_refunded)


def _is_returned(ours: OurOrder, charges: Sequence[Payment]) -> bool:
    """Returns whether the gateway no longer has a refund that our record has of an earlier try."""
    before = _sum(each.amount_refunded for each in charges if each.try_number < ours.try_number)
    return bool(before < ours.earlier)


def _uncompleted(ours: OurOrder, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    describe = _Describer(ours, charges)
    refunded = _sum(payment.amount_refunded for payment in charges if payment.currency == ours.currency)
    charged = _sum(payment.charged for payment in charges if payment.currency == ours.currency)
    kept = False
    for currency in sorted({payment.currency for payment in charges}):
        mine = currency == ours.currency
        left = _sum(payment.kept for payment in charges if payment.currency == currency) - (
            ours.settled if mine else _NOTHING
        )
        if left <= 0:
            continue
        kept = True
        if mine and ours.refunded > refunded:  # the refund may be on its way: a person has to find out
            yield describe(Kind.REFUND_UNKNOWN_TO_GATEWAY, min(left, ours.refunded - refunded))
        else:
            # What a person settled outside the gateway must not be refunded a second time.
            yield describe(Kind.CHARGED_NOT_COMPLETED, left, currency, repairable=not ours.settled)
    if ours.settled and refunded > ours.refunded:  # and a person settled it too: perhaps paid twice
        yield describe(Kind.REFUND_UNKNOWN_TO_US, refunded - ours.refunded)
    if kept or ours.settled or any(payment.currency != ours.currency for payment in charges):
        return
    # All of it was refunded: only our record is missing.
    if charged > ours.charged or refunded > ours.refunded:
        yield describe(Kind.REFUND_UNKNOWN_TO_US, refunded - ours.refunded, repairable=True)
    elif charged < ours.charged:
        yield describe(Kind.NOT_CHARGED, ours.charged - charged)


def _needs_attention(ours: OurOrder, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    """Compares an order under manual review: nothing is repaired while a person handles it, but the amount
    at risk has to be right."""
    describe = _Describer(ours, charges)
    if foreign := [payment for payment in charges if payment.currency != ours.currency and payment.kept > 0]:
        yield describe(Kind.CURRENCY_DIFFERS, _sum(payment.kept for payment in foreign), foreign[0].currency)
        return
    refunded = _sum(payment.amount_refunded for payment in charges)
    left = _sum(payment.kept for payment in charges) - ours.settled
    if left > ours.at_risk:
        yield describe(Kind.AMOUNT_DIFFERS, left - ours.at_risk)
    elif left < ours.at_risk:
        yield describe(
            Kind.REFUND_UNKNOWN_TO_US if refunded > ours.refunded else Kind.NOT_CHARGED, ours.at_risk - left
        )


_COMPARISONS = {Outcome.COMPLETED: _completed, Outcome.NEEDS_ATTENTION: _needs_attention}


def _left(ours: OurOrder, payments: Sequence[Payment]) -> Iterator[Discrepancy]:
    for payment in payments:
        if payment.status is PaymentStatus.CREATED:
            yield Discrepancy(
                Kind.LEFT_UNCONFIRMED,
                ours=f"{ours.outcome}",
                theirs=f"{show(payment.amount, payment.currency)} created, which could still be charged",
                order_id=ours.id,
                amount=payment.amount,
                currency=payment.currency,
                payment_ids=(payment.id,),
                repairable=True,
            )


class _Describer:
    """Makes discrepancies of one order that describe both sides."""

    def __init__(self, ours: OurOrder, charges: Sequence[Payment]) -> None:
        self._ours, self._charges = ours, charges

    def __call__(
        self, kind: Kind, amount: Decimal, currency: str | None = None, *, repairable: bool = False
    ) -> Discrepancy:
        ours = self._ours
        at_risk = f", {show(ours.at_risk, ours.currency)} at risk" if ours.at_risk else ""
        total = f" of {show(ours.total, ours.currency)}" if ours.total is not None else ""
        description = (
            f"{ours.outcome}: {_movements(ours.charged, ours.refunded, ours.currency)}{total}{at_risk}"
        )
        return Discrepancy(
            kind,
            ours=description,
            theirs="; ".join(_movements(p.charged, p.amount_refunded, p.currency) for p in self._charges)
            or "nothing charged",
            order_id=ours.id,
            amount=amount,
            currency=currency or ours.currency,
            payment_ids=_ids(self._charges),
            repairable=repairable,
        )


def _movements(charged: Decimal, refunded: Decimal, currency: str) -> str:
    back = f", {show(refunded, currency)} refunded" if refunded else ""
    return f"{show(charged, currency)} charged{back}"


def _sum(amounts: Any) -> Decimal:
    return sum(amounts, _NOTHING)


def _ids(payments: Sequence[Payment]) -> tuple[str, ...]:
    return tuple(payment.id for payment in payments)
