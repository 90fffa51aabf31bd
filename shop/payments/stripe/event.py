"""Converts Stripe's webhook events to `PaymentEvent`: verifies the signature, selects the relevant types, and
drops all data that is not needed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id
from shop.payments.events.inbox import DISPUTE, PaymentEvent
from shop.payments.stripe.disputes import DisputeRecord
from shop.payments.stripe.records import Id, Record, Time
from shop.payments.stripe.sdk import stripe

TOLERANCE_SECONDS = 300
"""Limits the age of a signature. Stripe creates a new one for each delivery."""
_NOT_SIGNED = "not signed with STRIPE_WEBHOOK_SECRET within the last five minutes"
_PAYMENT, _REFUNDED = (
    "payment_intent.",
    frozenset({"charge.refunded", "charge.refund.updated", "refund.failed"}),
)
_Type = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,100}$")]


_INSTALLATION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class BadSignature(Exception):
    """Not signed by Stripe with one of our secrets, or too long ago."""


class UnreadableEvent(Exception):
    """Signed, but not of the shape that Stripe documents."""


class _Data(Record):
    object: dict[str, Any]


class _Event(Record):
    id: Id
    type: _Type
    created: Time
    data: _Data


class _About(Record):
    """A PaymentIntent (`id`), or a charge, a refund or a dispute (`payment_intent`)."""

    id: Id
    payment_intent: Id | None = None
    metadata: dict[str, Any] | None = None


def read_signed(payload: bytes, header: str | None, secrets: tuple[str, ...]) -> PaymentEvent | None:
    """Returns the event, or None if its type is not relevant. Raises `BadSignature` or `UnreadableEvent`.
    `check_age` checks the signature's age."""
    verified = _verified(payload, header, secrets)
    try:
        event = _Event.model_validate(verified)
        if not (event.type.startswith((_PAYMENT, DISPUTE)) or event.type in _REFUNDED):
            return None
        about = _About.model_validate(event.data.object)
        dispute = DisputeRecord.model_validate(event.data.object) if event.type.startswith(DISPUTE) else None
    except (ValidationError, RecursionError):
        raise UnreadableEvent(
            "the event is signed, but does not have the shape that Stripe documents"
        ) from None
    return PaymentEvent(
        event.id,
        event.type,
        datetime.fromtimestamp(event.created, UTC),
        about.id if event.type.startswith(_PAYMENT) else about.payment_intent,
        _order_id(about.metadata),
        _installation(about.metadata),
        dispute.model_dump(mode="json") if dispute else None,
    )


def check_age(header: str, now: datetime) -> None:
    """Raises `BadSignature` if the header, whose signature is verified, is too old. `now` is the database's
    time, so that a machine with a wrong clock does not refuse every event."""
    # Parsed like the SDK does, so that it is the time that was signed.
    parts = [part.split("=", 2) for part in header.split(",")]
    signed_at = next(int(part[1]) for part in parts if part[0] == "t")
    if signed_at < now.timestamp() - TOLERANCE_SECONDS:
        raise BadSignature(_NOT_SIGNED)


def _verified(payload: bytes, header: str | None, secrets: tuple[str, ...]) -> Any:
    for secret in secrets:
        try:
            return stripe.Webhook.construct_event(payload, header, secret, tolerance=0).to_dict()
        except stripe.SignatureVerificationError:
            continue
        except UnicodeDecodeError:
            break
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UnreadableEvent("the event is signed, but is not the JSON of an event") from None
    raise BadSignature(_NOT_SIGNED)  # outside of the except: the SDK's error contains the body


def _installation(metadata: dict[str, Any] | None) -> str | None:
    given = (metadata or {}).get("installation")
    return given if isinstance(given, str) and _INSTALLATION.fullmatch(given) else None


def _order_id(metadata: dict[str, Any] | None) -> str | None:
    """Returns the order id in the metadata, or None. It is only a hint:
    any user of the account can write it."""
    try:
        return usable_id((metadata or {}).get("order_id"))
    except UnusableOrder:
        return None
