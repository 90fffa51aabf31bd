"""Builds mails from the rows of the outbox, and finds those that were sent, for people who read them. Every
machine finds every mail: in its Maildir, or built again from the order, its journal and the outbox."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from saga.database import transaction
from shop.notifications.kinds import REPORT, Kind
from shop.notifications.mail import MailContext, mail
from shop.notifications.maildir import find_mail
from shop.notifications.message import Mail
from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id
from shop.orders.order import read_stored
from shop.runtime.installation import Installation, installation
from shop.settings import Settings, settings

CONFIRMATION_STEP = "generate_confirmation"
"""The step whose result in the journal is the text of the confirmation."""
_FIND = text(
    """
    SELECT m.order_id, m.kind, m.payload, m.created_at, m.try_number, o.content,
        coalesce(m.created_at <= o.erased_at, false) AS erased,
        (SELECT result FROM order_step s WHERE s.order_id = o.id AND s.step = :step) AS confirmation
    FROM outbox m JOIN customer_order o ON o.id = m.order_id
    WHERE o.id = :id AND m.kind = :kind AND m.try_number = :try AND m.sent_at IS NOT NULL
    """
)


class NoMail(Exception):
    """No such mail was sent. The message says why, without customer data."""


class MailGone(NoMail):
    """The mail was sent, and there will be none again: its customer's data is erased."""


async def find_sent_mail(order_id: str, kind: Kind, try_number: int = 1) -> bytes:
    """Returns the mail that was sent about this try of the order: the file, if this machine's Maildir has it;
    otherwise it is built again, with today's settings and templates. Raises `NoMail`, or its subclass
    `MailGone`."""
    try:
        values = {"id": usable_id(order_id), "kind": kind, "try": try_number, "step": CONFIRMATION_STEP}
    except UnusableOrder:
        raise NoMail("no order has this id") from None
    async with transaction() as tx:
        row = (await tx.execute(_FIND, values)).mappings().one_or_none()
    if row is None:
        raise NoMail("no such mail was sent about this order")
    if row["erased"]:
        raise MailGone("the customer's data of this order is erased")
    s = settings()
    found = await asyncio.to_thread(_read, s, row)
    return found if found is not None else build_mail(row, s, await installation()).data


def _read(s: Settings, row: Any) -> bytes | None:
    try:
        path = find_mail(s.mail_dir, row["order_id"], row["kind"], row["try_number"])
        return path.read_bytes() if path else None
    except OSError:
        return None


def build_mail(row: Any, s: Settings, own: Installation) -> Mail:
    """Builds the mail of this row: the outbox's, with the order's `content` and the text of its
    `confirmation`. Raises KeyError and the like if the payload is incomplete."""
    mark = installation_mark(row, own)
    if row["kind"] == REPORT:
        from shop.monitoring.dashboard.report_mail import report_mail

        return report_mail(row["order_id"], row["payload"], s, row["created_at"], mark)
    context = MailContext(s, row["created_at"], mark, row["try_number"])
    payload = {**row["payload"], "confirmation": row["confirmation"]}
    return mail(read_stored(row["content"]), Kind(row["kind"]), payload, context)


def installation_mark(row: Any, own: Installation) -> str:
    """Returns the installation id, or nothing for messages of an earlier version: they may have been sent,
    and keep their ids."""
    return own.id if row["created_at"] >= own.made_at else ""
