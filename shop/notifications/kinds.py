"""What a customer is told about an order; of each an order gets at most one."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """A mail, and the contact that the CRM hears of."""

    CONFIRMATION = "confirmation"
    """It is on its way."""
    REFUND = "refund"
    """The money went back; written only once it did."""
    PAYMENT_FAILED = "payment_failed"
    """It could not be paid; nothing was kept."""
    INCOMPLETE = "incomplete"
    """It came without a delivery address, or without a means of payment; nothing was charged."""
    OUT_OF_STOCK = "out_of_stock"
    """Something in it is not there; nothing was charged."""


REPORT = "daily_report"
"""A mail for the shop itself, of no order: in the outbox its day stands where the order's id does."""
_CRM = "crm_"


def crm_kind(kind: Kind) -> str:
    """The outbox's name of what the CRM is told, beside the mail."""
    return f"{_CRM}{kind}"


def split(outbox_kind: str) -> tuple[Kind, bool]:
    """The outbox's name taken apart: what it is about, and whether it is for the CRM. ValueError if it is no such name."""
    return Kind(outbox_kind.removeprefix(_CRM)), outbox_kind.startswith(_CRM)


def what_it_is(order_id: str, kind: Kind, installation: str) -> str:
    """What the ids of a message are made of. Receivers drop a second message with the same id, so that two shops' must differ."""
    return "\n".join(filter(None, (installation, kind, order_id)))


ALL_OF_AN_ORDER = 2 * len(Kind)
"""So many messages an order can have, at most."""
