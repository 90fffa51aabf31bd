"""Kinds of messages about orders. Each try of an order gets at most one of each kind."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kind of a mail, and of the contact in the CRM."""

    CONFIRMATION = "confirmation"
    """The order was shipped."""
    REFUND = "refund"
    """The order was refunded; written only after the refund."""
    PAYMENT_FAILED = "payment_failed"
    """The payment failed; nothing was charged."""
    INCOMPLETE = "incomplete"
    """The order has no delivery address or no payment method; nothing was charged."""
    OUT_OF_STOCK = "out_of_stock"
    """An item is not in stock; nothing was charged."""
    AWAITING_PAYMENT = "awaiting_payment"
    """The order waits for a transfer."""


REPORT = "daily_report"
"""The outbox kind of the daily report, a mail to the shop itself. Its `order_id` is the day."""
_CRM = "crm_"


def crm_kind(kind: Kind) -> str:
    """Returns the outbox kind of the webhook to the CRM."""
    return f"{_CRM}{kind}"


def split(outbox_kind: str) -> tuple[Kind, bool]:
    """Splits an outbox kind into the kind, and whether it is for the CRM.
    Raises ValueError if it is unknown."""
    return Kind(outbox_kind.removeprefix(_CRM)), outbox_kind.startswith(_CRM)


def identity(order_id: str, kind: Kind, installation: str, try_number: int = 1) -> str:
    """Returns the text from which a message's ids are derived. It contains the installation, as receivers
    drop a second message with the same id, and those of two shops must differ; and the number of a later try,
    as those of two tries must differ, too. No order's id has a line break."""
    number = str(try_number) if try_number > 1 else None
    return "\n".join(filter(None, (installation, kind, order_id, number)))


ALL_OF_AN_ORDER = 2 * len(Kind)
"""The most messages that an order can have."""
