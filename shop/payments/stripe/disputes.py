"""Lookup of Stripe disputes."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from shop.payments.disputes import Dispute
from shop.payments.errors import PaymentGatewayError
from shop.payments.stripe.records import Code, Currency, Id, Record, Time, Units, expect, from_units, read
from shop.runtime.extras import needs_extra
from shop.settings import settings

_ID = re.compile(r"(du|dp)_[A-Za-z0-9_]{1,100}")


class _Evidence(Record):
    due_by: Time | None = None


class DisputeRecord(Record):
    """The fields of a dispute that are read, without the names,
    addresses and files that Stripe also sends."""

    id: Id
    amount: Units
    currency: Currency
    created: Time
    reason: Code
    status: Code
    payment_intent: Id | None = None
    evidence_details: _Evidence | None = None


async def look_up(dispute_id: str) -> Dispute:
    """Returns the dispute's current state. Raises what a `PaymentGateway` raises."""
    if not _ID.fullmatch(dispute_id):
        raise PaymentGatewayError(
            "no_such_dispute", "this is not the id of a dispute at Stripe", retryable=False
        )
    with needs_extra("stripe", "PAYMENT_GATEWAY=stripe"):
        from shop.payments.stripe.calls import StripeCalls  # its SDK takes a third of a second to load

    s = settings()
    key = s.stripe.api_key.get_secret_value() if s.stripe.api_key else ""
    calls = StripeCalls(s.payments.url, key, s.payments.timeout_seconds, concurrency=1)
    try:
        answer = await calls(lambda stripe: stripe.v1.disputes.retrieve_async(dispute_id))
    finally:
        await calls.aclose()
    record = read(DisputeRecord, answer)
    expect(record.id == dispute_id, "another dispute than was asked for")
    return to_dispute(record)


def to_dispute(record: DisputeRecord) -> Dispute:
    currency = record.currency.upper()
    due = record.evidence_details.due_by if record.evidence_details else None
    return Dispute(
        id=record.id,
        payment_id=record.payment_intent,
        amount=from_units(record.amount, currency),
        currency=currency,
        reason=record.reason,
        status=record.status,
        evidence_due_by=datetime.fromtimestamp(due, UTC) if due else None,
        opened_at=datetime.fromtimestamp(record.created, UTC),
    )
