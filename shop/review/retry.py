"""Tries an order again under the same id, after it ended uncompleted: with another means of payment, or after
the catalogue or the stock was corrected.

The try that has ended is kept (`shop.orders.tries`), and any worker takes the order through all steps again.
Both are one transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Connection, RowMapping, text

from saga import manual
from saga.database import transaction
from saga.failpoints import failpoint
from saga.wakeup import WAITING, notification
from shop.notifications import notices
from shop.notifications.kinds import Kind
from shop.orders import lost_steps
from shop.orders.intake_content import HAS_REMOVED, REMOVED, take_in
from shop.orders.order import Order
from shop.orders.outcomes import Outcome
from shop.orders.parts import ALREADY_PAID, BANK_TRANSFER, CASH_ON_DELIVERY, CHARGED
from shop.orders.store import ORDERS
from shop.orders.tries import IS_CANCELLED, MOST_TRIES, TRY, add_try, next_try, number_of
from shop.payments.errors import PAID_AND_REJECTED, PaidOtherwise
from shop.review import attention
from shop.review.actions import lock_order, optional_texts, system_text
from shop.review.errors import NotRetryable, RetryInvalid
from shop.runtime.sync import run_sync

METHODS = (*CHARGED, BANK_TRANSFER, CASH_ON_DELIVERY)
"""Methods that a new means of payment may have. Payments that were made elsewhere have more data, which only
a new order can have."""
_PAYMENT = "payment_info"
_LONGEST_TOKEN = 255
_NO_LONGER_TRUE = (Kind.PAYMENT_FAILED, Kind.INCOMPLETE, Kind.OUT_OF_STOCK, Kind.AWAITING_PAYMENT)
_LOOK = text(
    f"""
    SELECT o.id, o.outcome, {IS_CANCELLED} AS cancelled, o.failure, o.failing_step, o.reasons, o.undone,
    o.content, o.currency,
        o.amount_charged, o.amount_refunded, o.amount_at_risk, o.submitted_at, o.finished_at, o.erased_at,
        EXISTS (SELECT 1 FROM shipment s WHERE s.order_id = o.id) AS shipped,
        o.outcome = 'needs_attention' AND EXISTS (SELECT 1 FROM order_step s WHERE s.order_id = o.id
            AND s.undo_due AND s.undo_error ->> 'error_code' = '{PAID_AND_REJECTED}') AS paid_and_rejected,
        EXISTS (SELECT 1 FROM dispute d WHERE d.order_id = o.id AND d.closed_at IS NULL) AS disputed,
        EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id
            AND (a.resolved_at IS NULL OR a.amount_by_hand > 0 OR a.amount_written_off > 0)) AS settled
    FROM customer_order o WHERE o.id = :id
    """  # noqa: S608  (a constant)
)
_RETRYING = failpoint("the commit of trying an order again")


@dataclass(frozen=True, slots=True, repr=False)
class NewMeans:
    """The means of payment of the next try. If anything is given, it replaces the order's: nothing of the
    former one is used, but for its method. Not shown by `repr`, because a token must not reach a log."""

    token: str | None = None
    method: str | None = None
    card_last4: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """What was given, by name."""
        each = {"token": self.token, "method": self.method, "card_last4": self.card_last4}
        return {name: value for name, value in each.items() if value is not None}


class RetryReceipt(BaseModel, frozen=True):
    """The result of asking for another try."""

    order_id: str
    status: Literal["accepted", "under_way"] = Field(
        description="`accepted`: the next try begins; `under_way`: it was asked for before, and has not ended"
    )
    try_number: int = Field(description="the number of the try that is under way now")


async def retry(
    order_id: str,
    means: NewMeans | None = None,
    *,
    requested_by: str | None = None,
    reason: str | None = None,
    started_by: str | None = None,
) -> RetryReceipt:
    """Makes any worker try the order again; once, however many ask at the same time. An order whose next try
    is under way is left alone, and the receipt says so.

    `requested_by` is what a person typed, `started_by` what the system knows. Raises `OrderUnknown`,
    `NotRetryable`, and `RetryInvalid` with every problem.
    """
    means = means or NewMeans()
    who, problems = optional_texts(requested_by=requested_by, reason=reason)
    who["started_by"] = system_text(started_by)
    problems |= _problems(means)
    if problems:
        raise RetryInvalid(problems)
    async with transaction(_RETRYING) as tx:
        receipt = await tx.run_sync(_retry, order_id.strip(), means, who)
        if receipt.status == "accepted":
            for kind in _NO_LONGER_TRUE:
                await notices.withdraw(tx, [receipt.order_id], kind)
    return receipt


def retry_sync(order_id: str, means: NewMeans | None = None, **who: str | None) -> RetryReceipt:
    """Runs `retry` for callers that cannot await."""
    return run_sync(lambda: retry(order_id, means, **who))


def _retry(
    connection: Connection, order_id: str, means: NewMeans, who: Mapping[str, str | None]
) -> RetryReceipt:
    row = lock_order(connection, order_id, _LOOK)
    number = number_of(row["content"])
    if row["outcome"] is None and number > 1 and _is_under_way(row, means):
        return RetryReceipt(order_id=order_id, status="under_way", try_number=number)
    if (refusal := _why_not(connection, row)) is not None:
        raise NotRetryable(order_id, why=refusal[0], instead=refusal[1])
    if means.given and _is_paid_already(row):
        raise RetryInvalid({"method": "the order is paid already: retry it without a means of payment"})
    changes = _new_payment(row["content"], means) if means.given else {}
    entries = manual.read_entries(connection, ORDERS, [order_id])
    changes[TRY] = next_try(row["content"], row["amount_charged"], entries)
    if row["outcome"] == Outcome.NEEDS_ATTENTION:
        attention.clear_sync(connection, [order_id])
    add_try(connection, dict(row), manual.start_over(connection, ORDERS, order_id, changes), **who)
    lost_steps.add_to_journals(connection, [order_id])
    connection.execute(notification(ORDERS, WAITING))
    return RetryReceipt(order_id=order_id, status="accepted", try_number=number + 1)


def _why_not(connection: Connection, row: RowMapping) -> tuple[str, str] | None:
    """Returns why the order cannot be tried again, and what to do instead; None if it can."""
    another = "Give the order another id, and submit it as a new one"
    match row["outcome"]:
        case None:
            return "it is in progress", "Wait for its outcome"
        case Outcome.COMPLETED:
            return (
                "it is completed",
                "There is nothing to try again. To return it, use cancel-order or order-saga cancel",
            )
        case Outcome.NEEDS_ATTENTION if not _can_be_corrected(row):
            return "it is under manual review", "Resolve it first: order-saga review"
    if row["cancelled"]:
        return "it was cancelled", another
    if row["shipped"]:
        return "it had a parcel, which came back", another
    if row["erased_at"] is not None:
        return "its customer's data is erased", another
    if row["disputed"]:
        return "the customer's bank disputes a charge of it", "Wait until the dispute is closed"
    if number_of(row["content"]) >= MOST_TRIES:
        return f"it was tried {MOST_TRIES} times", another
    if _can_be_corrected(row):
        return None
    if row["settled"]:
        return "a person has settled its money outside the gateway, or is about to", another
    if row["amount_at_risk"] > 0 or row["amount_charged"] != row["amount_refunded"]:
        return "not all of its money is refunded", "Run reconcile-payments, and resolve what it reports"
    if manual.due_compensations(connection, ORDERS, row["id"]):
        return "a compensation is due", "Run reconcile-payments, and resolve what it reports"
    return None


def _is_under_way(row: RowMapping, means: NewMeans) -> bool:
    """Returns whether the try that is asked for is the one that is under way: with these means of payment,
    and not failing already."""
    payment = row["content"].get(_PAYMENT)
    same = isinstance(payment, Mapping) and payment.items() >= means.given.items()
    return row["failure"] is None and (same or not means.given)


def _can_be_corrected(row: RowMapping) -> bool:
    """Returns whether the order is under review because it is paid and was not valid: nothing was done for
    it, and nothing given back."""
    return bool(row["paid_and_rejected"] and row["amount_charged"] == 0)


def _is_paid_already(row: RowMapping) -> bool:
    """Returns whether others have the order's money, so that no other means of payment may be charged. What
    the gateway had was refunded, if the order was compensated; or it had nothing."""
    payment = row["content"].get(_PAYMENT)
    paid = isinstance(payment, Mapping) and payment.get("method") == ALREADY_PAID
    never = (row["failure"] or {}).get("code") == PaidOtherwise.code
    return paid and row["amount_charged"] == 0 and not never


def _problems(means: NewMeans) -> dict[str, str]:
    """Returns what is wrong with the means of payment, by name. Checks it for card data as intake does."""
    given = means.given
    problems: dict[str, str] = {}
    if means.method is not None and means.method not in METHODS:
        problems["method"] = "expected one of " + ", ".join(METHODS)
    if means.card_last4 is not None and not re.fullmatch(r"[0-9]{4}", means.card_last4):
        problems["card_last4"] = "expected the card's last four digits, never more"
    if means.token is not None and not 0 < len(means.token) <= _LONGEST_TOKEN:
        problems["token"] = f"expected the gateway's token, 1 to {_LONGEST_TOKEN} characters"
    stored = json.loads(take_in({"id": "new means", _PAYMENT: given}).text)[_PAYMENT] if given else {}
    for name in given:
        if REMOVED in str(stored.get(name)):
            problems[name] = (
                "this looks like card data, or cannot be stored: give the gateway's token instead"
            )
    return problems


def _new_payment(content: Mapping[str, Any], means: NewMeans) -> dict[str, Any]:
    """Returns the changes of the content: the new means of payment, without what was wrong with the
    former."""
    former = content.get(_PAYMENT)
    method = former.get("method") if isinstance(former, Mapping) else None
    payment = {"method": method if method in CHARGED else None, **means.given}
    if payment["method"] is None:
        raise RetryInvalid({"method": "missing: the order has none that the gateway charges"})
    changes: dict[str, Any] = {_PAYMENT: payment}
    if isinstance(removed := content.get(HAS_REMOVED), Mapping):
        changes[HAS_REMOVED] = {
            place: mark for place, mark in removed.items() if place.partition(".")[0] != _PAYMENT
        }
        # What had marks is stored as it was sent. Now it is stored as intake does, on which reports rely.
        with suppress(ValidationError):
            changes = {**Order.model_validate({**content, **changes}).model_dump(mode="json"), **changes}
    return changes
