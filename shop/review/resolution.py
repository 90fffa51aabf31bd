"""Resolves an order under manual review: a person's decision, stored with who, when and why.

The decision and the reopening of the order are one transaction. Then any worker takes the order to its
outcome, by the same saga.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from saga import manual
from saga.database import transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.orders.changes import end_under_review
from shop.orders.store import ORDERS
from shop.orders.tries import earlier_money, earlier_payments
from shop.payments.charge import STEP as PAYMENT
from shop.payments.charge import payments_of
from shop.payments.elsewhere import SUM, is_paid_later, paid_before
from shop.payments.errors import UNDECIDED, PaymentError
from shop.payments.gateway import PaymentGateway
from shop.payments.gateways import gateway
from shop.payments.settled import GATEWAY_AT_RISK, GATEWAY_SETTLED, Settled, read_settled
from shop.review.actions import add_entry, lock_order, optional_text, required_text, system_text
from shop.review.errors import (
    AlreadyResolved,
    AmountChanged,
    GatewayNotAsked,
    NotUnderReview,
    OrderBusy,
    RefundedAlready,
    ResolutionIncomplete,
)
from shop.runtime.sync import run_sync
from shop.runtime.times import shown_minute
from shop.values.money import show

_LOOK = text(
    """
    SELECT o.id, o.outcome, o.lease_id IS NULL AND o.not_before > now() AS postponed,
        o.currency, o.amount_charged, o.amount_refunded, o.amount_at_risk, o.amount_elsewhere, o.content,
        a.order_id IS NOT NULL AS was_here, a.resolved_at, a.resolution, a.next_retry_at
    FROM customer_order o LEFT JOIN attention a ON a.order_id = o.id WHERE o.id = :id
    """
)
_AT_RISK = text(
    f"""
    SELECT o.currency, {GATEWAY_AT_RISK} AS amount_at_risk, {GATEWAY_SETTLED} AS settled, o.content,
        s.notes ->> 'payment_id' AS payment_id
    FROM customer_order o JOIN attention a ON a.order_id = o.id AND a.resolved_at IS NULL
    LEFT JOIN order_step s ON s.order_id = o.id AND s.step = :step WHERE o.id = :id AND o.amount_at_risk > 0
    """  # noqa: S608  (constants)
)
_RESOLVED = text(
    "UPDATE attention SET resolved_at = now(), resolution = :resolution, "
    "amount_by_hand = amount_by_hand + :by_hand, "
    "amount_written_off = amount_written_off + :written_off WHERE order_id = :id"
)
_HOLD = text("UPDATE attention SET next_retry_at = NULL WHERE order_id = :id")
_DECIDING = failpoint("the commit of a person's decision")
_AMOUNT = re.compile(r"(\d{1,12}|\d{1,3}(?:,\d{3}){1,3})(\.\d{1,6})?(?:\s+([A-Za-z]{3}))?", re.ASCII)


class Resolution(StrEnum):
    """What a person can decide about an order under manual review."""

    REFUNDED_BY_HAND = "refunded_by_hand"
    """The money was refunded outside the gateway; a reference proves it."""
    WRITTEN_OFF = "written_off"
    """What is still due will not be done; a reason says why."""
    RETRY_NOW = "retry_now"
    """Retried at once."""
    HOLD = "hold"
    """A person handles it: nothing is retried automatically, so that the money is not refunded twice."""


_SETTLING = frozenset({Resolution.REFUNDED_BY_HAND, Resolution.WRITTEN_OFF})
"""The resolutions that settle the amount at risk."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision, validated."""

    order_id: str
    resolution: Resolution
    by: str
    """As typed."""
    reference: str | None
    reason: str | None
    started_by: str | None
    """The user that the system knows."""
    amount: Decimal | None = None
    """The amount at risk that the person saw: another one is not settled. None: whatever is at risk."""
    currency: str | None = None
    """Of `amount`; None: the order's."""


def decision(
    order_id: str,
    resolution: Resolution | str,
    *,
    resolved_by: str,
    reference: str | None = None,
    reason: str | None = None,
    started_by: str | None = None,
    amount: str | None = None,
) -> Decision:
    """Validates a decision. `resolved_by` is typed, `started_by` is what the system knows; both are stored.
    `amount`: the amount at risk that the person saw, with or without its currency.

    Raises `ResolutionIncomplete`, with every problem, if this resolution lacks something.
    """
    try:
        chosen = Resolution(resolution)
    except ValueError:
        raise ResolutionIncomplete(f"a resolution is one of {', '.join(Resolution)}") from None
    problems: list[str] = []

    def cleaned(name: str, given: str | None, *, needed: bool, why: str) -> str | None:
        try:
            return required_text(name, given, why) if needed else optional_text(name, given)
        except ResolutionIncomplete as error:
            problems.extend(error.problems)
            return None

    by = cleaned(
        "resolved_by",
        resolved_by,
        needed=True,
        why="give the name of the person who decides this; it is stored with the order",
    )
    proof = "refunded_by_hand needs the number of the bank transfer, or whatever proves the refund"
    given_reference = cleaned("reference", reference, needed=chosen is Resolution.REFUNDED_BY_HAND, why=proof)
    loss = "written_off needs the reason for giving this money up"
    given_reason = cleaned("reason", reason, needed=chosen is Resolution.WRITTEN_OFF, why=loss)
    seen, currency = None, None
    if (words := cleaned("amount", amount, needed=False, why="")) is not None:
        if chosen not in _SETTLING:
            problems.append(f"amount is given, and {chosen} settles none")
        elif (found := _AMOUNT.fullmatch(words)) is None:
            problems.append("amount is none: give what is at risk, such as 1059.97 or '1059.97 USD'")
        else:
            seen = Decimal(found[1].replace(",", "") + (found[2] or ""))
            currency = found[3].upper() if found[3] else None
    if problems or by is None:
        raise ResolutionIncomplete(*problems)
    who = system_text(started_by)
    return Decision(order_id.strip(), chosen, by, given_reference, given_reason, who, seen, currency)


async def resolve(decided: Decision, *, dry_run: bool = False) -> bool:
    """Resolves the order or reopens it; any worker then takes it to its outcome. Returns False if the same
    was decided before, and nothing was done now.

    Asks the gateway what is left of the charge before it records a refund by hand. `dry_run` does the same
    and rolls it back.

    Raises `OrderUnknown`, `NotUnderReview`, `AlreadyResolved` (otherwise), `AmountChanged`,
    `RefundedAlready`, `ResolutionIncomplete`, and the retryable `OrderBusy` and `GatewayNotAsked`.
    """
    if decided.resolution is Resolution.REFUNDED_BY_HAND:
        await _check_with_gateway(decided, gateway())
    async with transaction(None if dry_run else _DECIDING) as tx:
        if not dry_run:
            return await tx.run_sync(_resolve, decided)
        trial = await tx.begin_nested()
        try:
            return await tx.run_sync(_resolve, decided)
        finally:
            await trial.rollback()


def resolve_sync(decided: Decision) -> bool:
    """Runs `resolve` for callers that cannot await."""
    return run_sync(lambda: resolve(decided))


async def _check_with_gateway(decided: Decision, gateway: PaymentGateway) -> None:
    """Raises `RefundedAlready` if less is left of the charge than is at risk or settled before, and
    `GatewayNotAsked`."""
    async with transaction() as tx:
        row = (await tx.execute(_AT_RISK, {"id": decided.order_id, "step": PAYMENT})).one_or_none()
    if row is None:  # `_resolve` raises the error
        return
    try:
        payments = await payments_of(
            decided.order_id, gateway, row.payment_id, *earlier_payments(row.content)
        )
    except PaymentError as error:
        if not error.retryable:  # the gateway no longer has the payment: trust the person
            return
        raise GatewayNotAsked(
            "the payment gateway does not report what is left of the charge of order "
            f"{decided.order_id} ({error}). Choose hold, so that nothing is refunded meanwhile, "
            "and record the refund when the gateway answers"
        ) from error
    mine = [
        payment
        for payment in payments
        if (payment.order_id, payment.currency) == (decided.order_id, row.currency)
    ]
    kept = sum((payment.kept for payment in mine), Decimal(0))
    if payments and not mine:  # the payments are another order's, or in another currency
        return
    if kept - row.settled < row.amount_at_risk:
        charged = show(sum((payment.charged for payment in mine), Decimal(0)), row.currency)
        back = show(sum((payment.amount_refunded for payment in mine), Decimal(0)), row.currency)
        raise RefundedAlready(
            f"the payment gateway has charged {charged} for order {decided.order_id} and refunded {back}: "
            f"less is left than {show(row.amount_at_risk, row.currency)}. "
            "Choose retry_now, which finds the refund; "
            "if you have refunded it too, the customer has the money twice"
        )


def _resolve(connection: Connection, decided: Decision) -> bool:
    row: Mapping[str, Any] = {**lock_order(connection, decided.order_id, _LOOK)}
    if _is_settled(row, decided):
        return False
    if row["outcome"] is None:
        if decided.resolution is Resolution.RETRY_NOW:
            return False
        if not row["postponed"]:
            raise OrderBusy(decided.order_id)
        # Its retry waits, for example for a gateway that is down. No worker has it, nor can before this
        # commits.
    amount = Decimal(0)
    match decided.resolution:
        case Resolution.HOLD:
            if row["next_retry_at"] is None and row["outcome"] is not None:
                return False
            connection.execute(_HOLD, {"id": decided.order_id})
            end_under_review(connection, decided.order_id)
        case Resolution.RETRY_NOW:  # restarts the count of refunds without a clear answer
            changes = {"unclear_refunds": 0, UNDECIDED: False}
            manual.change_error(connection, ORDERS, decided.order_id, PAYMENT, changes)
        case settled:
            row = _with_later_money(connection, row)
            _check_amount(decided, row)
            _settle(connection, decided, row)
            amount = row["amount_at_risk"]
            by_hand = amount if settled is Resolution.REFUNDED_BY_HAND else Decimal(0)
            amounts = {"by_hand": by_hand, "written_off": amount - by_hand}
            connection.execute(_RESOLVED, {"id": decided.order_id, "resolution": settled, **amounts})
    add_entry(
        connection,
        decided.order_id,
        decided.resolution,
        by=decided.by,
        started_by=decided.started_by,
        reason=decided.reason,
        reference=decided.reference,
        amount=amount,
        currency=row["currency"],
    )
    if decided.resolution is not Resolution.HOLD:
        manual.reopen(connection, ORDERS, [decided.order_id], forget_deaths=True)
        connection.execute(notification(ORDERS, WAITING))
    return True


def _with_later_money(connection: Connection, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adds the money that came by transfer since the amount at risk was found, while the retry that would
    find it waits."""
    if not is_paid_later(row["content"]):
        return row
    uncollected = (_settled_before(connection, row) or Settled()).uncollected
    later = max(_taken(connection, row) - (row["amount_elsewhere"] - uncollected), Decimal(0))
    return {**row, **{name: row[name] + later for name in ("amount_at_risk", "amount_elsewhere")}}


def _taken(connection: Connection, row: Mapping[str, Any]) -> Decimal:
    """Returns what others have taken for an order whose money comes by transfer or on delivery."""
    received = connection.execute(SUM, {"id": row["id"], "currency": row["currency"]}).scalar_one()
    return Decimal(received) + paid_before(row["content"])


def _check_amount(decided: Decision, row: Mapping[str, Any]) -> None:
    """Raises `AmountChanged` if the amount at risk is not the one that the person saw."""
    if decided.amount is None:
        return
    seen = (decided.amount, decided.currency or row["currency"])
    if seen != (row["amount_at_risk"], row["currency"]):
        raise AmountChanged(decided.order_id, seen=seen, at_risk=(row["amount_at_risk"], row["currency"]))


def _is_settled(row: Mapping[str, Any], decided: Decision) -> bool:
    """Returns whether the same was decided before. Raises if another decision was, or if none is due."""
    order_id, before = decided.order_id, row["resolution"]
    if not row["was_here"]:
        where = f"it is {row['outcome']}" if row["outcome"] else "it is still in progress"
        raise NotUnderReview(
            f"order {order_id} is not under manual review: {where}. To cancel it, use cancel-order "
            "or order-saga cancel"
        )
    if before is None:
        return False
    if before == decided.resolution or (before == "undone" and decided.resolution is Resolution.RETRY_NOW):
        return True
    when = shown_minute(row["resolved_at"])
    if before == "undone":
        paid = decided.resolution is Resolution.REFUNDED_BY_HAND
        warning = "; if you have refunded the money too, the customer has it twice: ask for it back"
        raise AlreadyResolved(
            f"order {order_id} was compensated by a retry at {when}{warning if paid else ''}"
        )
    raise AlreadyResolved(
        f"order {order_id} was settled as {before} at {when}, which is final; "
        "the table desk_entry says by whom"
    )


def _settle(connection: Connection, decided: Decision, row: Mapping[str, Any]) -> None:
    """Settles what is due: the refund, and if it is written off, all other compensations, too."""
    order_id, by_hand = decided.order_id, decided.resolution is Resolution.REFUNDED_BY_HAND
    due = manual.due_compensations(connection, ORDERS, order_id)
    if by_hand and (PAYMENT not in due or row["amount_at_risk"] <= 0):
        raise ResolutionIncomplete(
            f"no money is at risk for order {order_id}, so there is nothing to refund by hand: "
            f"the failed compensations are {', '.join(sorted(due))}. Use retry_now, or written_off"
        )
    if PAYMENT in due:
        settled = _settled(connection, row, by_hand=by_hand)
        money = _settled_money(decided, row, settled)
        manual.settle(connection, ORDERS, order_id, [PAYMENT], money, notes=settled.notes)
    if not by_hand and (others := [step for step in due if step != PAYMENT]):
        result = {"compensation_status": "written_off", "by": decided.by, "reason": decided.reason}
        manual.settle(connection, ORDERS, order_id, others, result)


def _settled(connection: Connection, row: Mapping[str, Any], *, by_hand: bool) -> Settled:
    """Returns the sums of what was settled before and of what is at risk now."""
    before = _settled_before(connection, row) or Settled()
    amount: Decimal = row["amount_at_risk"]
    others = min(amount, max(row["amount_elsewhere"] - before.elsewhere, Decimal(0)))
    given_back = amount if by_hand else Decimal(0)
    uncollected = Decimal(0)
    if not by_hand and is_paid_later(row["content"]):
        uncollected = max(others - max(_taken(connection, row) - before.received, Decimal(0)), Decimal(0))
    return before.plus(gateway=amount - others, elsewhere=others, by_hand=given_back, uncollected=uncollected)


def _settled_before(connection: Connection, row: Mapping[str, Any]) -> Settled | None:
    """Returns the sums of what was settled before."""
    entries = {entry["step"]: entry for entry in manual.read_entries(connection, ORDERS, [row["id"]])}
    if (entry := entries.get(PAYMENT)) is None:
        return None
    return read_settled(entry["notes"], entry["undo_result"])


def _settled_money(decided: Decision, row: Mapping[str, Any], settled: Settled) -> dict[str, Any]:
    """Returns the refund's new journal entry, about this try. What is `settled` now had been charged, or
    others had taken it."""
    how, earlier = decided.resolution.value, earlier_money(row["content"])
    amount, refunded = row["amount_at_risk"], row["amount_refunded"] - earlier
    return {
        "compensation_status": how,
        "amount_charged": str(max(row["amount_charged"] - earlier, refunded + settled.gateway)),
        "amount_elsewhere": str(max(row["amount_elsewhere"], settled.elsewhere)),
        "refunded_amount": str(refunded),
        how: str(amount),
        "currency": row["currency"],
        "shown": show(amount, row["currency"]),
        "by": decided.by,
        "reference": decided.reference,
        "reason": decided.reason,
    }
