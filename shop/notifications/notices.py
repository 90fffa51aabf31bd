"""Adds notices to customers in one transaction: a mail in the outbox, a contact in the shop's CRM table, and
(with `CRM_WEBHOOK_URL`) a webhook to an external CRM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json
from shop.notifications import outbox
from shop.notifications.kinds import Kind, crm_kind
from shop.settings import settings

_INTERACT = text(
    "INSERT INTO customer_interaction (customer_id, order_id, kind, details, try_number) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(customer_id text, order_id text, kind text, details jsonb, try_number int) ON CONFLICT DO NOTHING"
)
_CONTACTS = {kind: f"order_{kind}" for kind in Kind}


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about an order that has to be sent."""

    order_id: str
    customer_id: str | None
    """None for a guest."""
    kind: Kind
    payload: dict[str, Any]
    """The mail's content, besides the order and its confirmation's text."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the CRM stores, without card data and addresses."""
    try_number: int = 1
    """The order's try that causes it."""


async def add_notices(tx: Tx, notices: Sequence[Notice]) -> None:
    """Adds the notices, once per order, try and kind: a second call changes nothing. They are sent after the
    commit."""
    if not notices:
        return
    messages = [outbox.Message(n.order_id, n.kind, n.payload, n.try_number) for n in notices]
    if settings().crm.webhook_url:
        messages += [
            outbox.Message(
                n.order_id,
                crm_kind(n.kind),
                {"customer_id": n.customer_id, "contact": _CONTACTS[n.kind], **n.details},
                n.try_number,
            )
            for n in notices
        ]
    contacts = [
        {
            "customer_id": n.customer_id,
            "order_id": n.order_id,
            "kind": _CONTACTS[n.kind],
            "details": n.details,
            "try_number": n.try_number,
        }
        for n in notices
    ]
    await outbox.put(tx, messages)
    await tx.execute(_INTERACT, {"rows": as_json(contacts)})


async def withdraw(tx: Tx, order_ids: Sequence[str], kind: Kind) -> None:
    """Deletes the orders' messages of this kind, for the customer and the CRM, that are not sent yet."""
    await outbox.withdraw(tx, order_ids, [kind, crm_kind(kind)])
