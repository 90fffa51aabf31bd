"""Judging one order: what we say about its money against the gateway's payments. Pure: no input and no output."""

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
    """What our books say of an order."""

    id: str
    outcome: Outcome | None
    """None: it is under way."""
    finished_at: datetime | None
    currency: str
    total: Decimal | None
    """What was to be paid; None where that has no meaning any more, because it ended uncompleted."""
    charged: Decimal
    refunded: Decimal
    at_risk: Decimal
    settled: Decimal = _NOTHING
    """What a person gave back past the gateway, or wrote off: it stays there, and is nobody's concern any more."""


def judge(order_id: str, ours: OurOrder | None, payments: Sequence[Payment], *, settled_before: datetime) -> list[Discrepancy]:
    """Every discrepancy of one order, given all its payments. An order under way is not judged; nor is one that ended, or had a payment
    moved, after `settled_before`: the two books need not have met yet."""
    if any(payment.moved_at > settled_before for payment in payments):
        return []
    charges = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
    if ours is None:
        return list(_without_order(order_id, charges))
    if ours.outcome is None or ours.finished_at is None or ours.finished_at > settled_before:
        return []
    found = list(_JUDGES.get(ours.outcome, _uncompleted)(ours, charges))
    if not any(each.kind is Kind.NOT_CHARGED for each in found):  # else confirming it may be what is called for
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
    say = _Saying(ours, charges)
    # A payment that went back whole, beside one that did not, is settled.
    standing = [payment for payment in charges if payment.kept > 0] or charges[:1]
    if not standing:
        yield say(Kind.NOT_CHARGED, ours.charged or ours.total or _NOTHING)
    elif foreign := [payment for payment in standing if payment.currency != ours.currency]:
        yield say(Kind.CURRENCY_DIFFERS, _sum(payment.kept for payment in foreign), foreign[0].currency)
    elif len(standing) > 1:
        yield say(Kind.CHARGED_MORE_THAN_ONCE, _sum(payment.kept for payment in standing) - (ours.charged - ours.refunded))
    else:
        (payment,) = standing
        if differences := [abs(payment.amount - said) for said in (ours.charged, ours.total or _NOTHING) if said != payment.amount]:
            yield say(Kind.AMOUNT_DIFFERS, differences[0])
        if payment.amount_refunded > ours.refunded:
            yield say(Kind.REFUND_UNKNOWN_TO_US, payment.amount_refunded - ours.refunded)
        elif payment.amount_refunded < ours.refunded:
            yield say(Kind.REFUND_UNKNOWN_TO_GATEWAY, ours.refunded - payment.amount_refunded)


def _uncompleted(ours: OurOrder, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    say = _Saying(ours, charges)
    refunded = _sum(payment.amount_refunded for payment in charges if payment.currency == ours.currency)
    charged = _sum(payment.charged for payment in charges if payment.currency == ours.currency)
    kept = False
    for currency in sorted({payment.currency for payment in charges}):
        mine = currency == ours.currency
        left = _sum(payment.kept for payment in charges if payment.currency == currency) - (ours.settled if mine else _NOTHING)
        if left <= 0:
            continue
        kept = True
        if mine and ours.refunded > refunded:  # it may be on its way back: what to believe is for a person to find out
            yield say(Kind.REFUND_UNKNOWN_TO_GATEWAY, min(left, ours.refunded - refunded))
        else:
            # What a person has settled past the gateway must not be paid a second time.
            yield say(Kind.CHARGED_NOT_COMPLETED, left, currency, mendable=not ours.settled)
    if ours.settled and refunded > ours.refunded:  # and a person had given it back, or up: paid twice, perhaps
        yield say(Kind.REFUND_UNKNOWN_TO_US, refunded - ours.refunded)
    if kept or ours.settled or any(payment.currency != ours.currency for payment in charges):
        return
    if charged > ours.charged or refunded > ours.refunded:  # all of it is back: only our books do not have it
        yield say(Kind.REFUND_UNKNOWN_TO_US, refunded - ours.refunded, mendable=True)
    elif charged < ours.charged:
        yield say(Kind.NOT_CHARGED, ours.charged - charged)


def _needs_attention(ours: OurOrder, charges: Sequence[Payment]) -> Iterator[Discrepancy]:
    """A person has it on the desk: nothing is mended behind the person's back, but the amount at risk has to be right."""
    say = _Saying(ours, charges)
    if foreign := [payment for payment in charges if payment.currency != ours.currency and payment.kept > 0]:
        yield say(Kind.CURRENCY_DIFFERS, _sum(payment.kept for payment in foreign), foreign[0].currency)
        return
    kept, refunded = _sum(payment.kept for payment in charges), _sum(payment.amount_refunded for payment in charges)
    left = kept - ours.settled
    if left > ours.at_risk:
        yield say(Kind.AMOUNT_DIFFERS, left - ours.at_risk)
    elif left < ours.at_risk:
        yield say(Kind.REFUND_UNKNOWN_TO_US if refunded > ours.refunded else Kind.NOT_CHARGED, ours.at_risk - left)


_JUDGES = {Outcome.COMPLETED: _completed, Outcome.NEEDS_ATTENTION: _needs_attention}


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
                mendable=True,
            )


class _Saying:
    """Puts what both sides say into words."""

    def __init__(self, ours: OurOrder, charges: Sequence[Payment]) -> None:
        self._ours, self._charges = ours, charges

    def __call__(self, kind: Kind, amount: Decimal, currency: str | None = None, *, mendable: bool = False) -> Discrepancy:
        ours = self._ours
        at_risk = f", {show(ours.at_risk, ours.currency)} at risk" if ours.at_risk else ""
        total = f" of {show(ours.total, ours.currency)}" if ours.total is not None else ""
        said = f"{ours.outcome}: {_movements(ours.charged, ours.refunded, ours.currency)}{total}{at_risk}"
        return Discrepancy(
            kind,
            ours=said,
            theirs="; ".join(_movements(p.charged, p.amount_refunded, p.currency) for p in self._charges) or "nothing charged",
            order_id=ours.id,
            amount=amount,
            currency=currency or ours.currency,
            payment_ids=_ids(self._charges),
            mendable=mendable,
        )


def _movements(charged: Decimal, refunded: Decimal, currency: str) -> str:
    back = f", {show(refunded, currency)} refunded" if refunded else ""
    return f"{show(charged, currency)} charged{back}"


def _sum(amounts: Any) -> Decimal:
    return sum(amounts, _NOTHING)


def _ids(payments: Sequence[Payment]) -> tuple[str, ...]:
    return tuple(payment.id for payment in payments)
