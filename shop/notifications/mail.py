"""The mails that a customer gets: their order is confirmed, or their money came back.

Any text of an order may be hostile: nothing of it can add a header, another recipient, or lines that look like ours.
The same order and kind always has the same Message-ID, so that a resend is recognised as one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from shop.confirmation.confirmation import Confirmation
from shop.errors import OrderCancelled, OrderReturned
from shop.files import write_atomic
from shop.money import show
from shop.names import file_stem
from shop.notifications.layout import order_table, wrapped
from shop.order import Order
from shop.plain import one_line, paragraphs
from shop.settings import Settings

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]+(\.[\w-]+)+")
_NOT_IN_NAMES = str.maketrans(dict.fromkeys('<>@,;:"\\()[]', " "))
_PLAIN = SMTP.clone(cte_type="7bit")
_INTERNATIONAL = SMTPUTF8.clone(cte_type="7bit")
"""For an address whose part before the @ is not ASCII."""
_LINE = 78
_SORRY = "we are sorry: your order {order_id} could not be completed and will not be delivered."
_NEWS = {
    OrderCancelled.code: "your order {order_id} was cancelled and will not be delivered.",
    OrderReturned.code: "your order {order_id} was cancelled after it had been shipped, and counts as returned.",
}
_PLAIN_CONTENT = ('Content-Type: text/plain; charset="utf-8"', "Content-Transfer-Encoding: 7bit", "MIME-Version: 1.0")


class MailKind(StrEnum):
    """What a mail is about; an order gets at most one of each."""

    CONFIRMATION = "confirmation"
    REFUND = "refund"


def render_confirmation_mail(
    order: Order, confirmation: Confirmation | Mapping[str, Any], tracking_number: str, settings: Settings, date: datetime
) -> bytes:
    """The confirmation with the order's table and the tracking number, as an RFC 5322 message."""
    texts = confirmation.model_dump() if isinstance(confirmation, Confirmation) else confirmation
    greeting, summary, next_steps, tracking = (
        wrapped(paragraphs(str(texts.get(name) or ""))) for name in ("greeting", "order_summary", "next_steps", "tracking_info")
    )
    body = [greeting, summary, order_table(order), next_steps, tracking, f"Tracking number: {one_line(tracking_number)}"]
    return _message(order, MailKind.CONFIRMATION, f"Your order {one_line(order.id)} is confirmed", body, (settings, date))


def render_refund_mail(
    order: Order, refunded_amount: Decimal, currency: str, settings: Settings, date: datetime, *, why: str | None = None
) -> bytes:
    """Tells what became of the order (`why` is the code of its failure), and how much money went back: that, and no other amount."""
    name = one_line(order.customer_name) or "Valued Customer"
    order_id = one_line(order.id)
    money = f"We have refunded {show(refunded_amount, currency)} to you." if refunded_amount > 0 else "You have not been charged."
    body = [
        f"Hello {name},",
        wrapped(_NEWS.get(why or "", _SORRY).format(order_id=order_id)),
        money,
        wrapped("If you have any question, just answer this mail."),
    ]
    subject = f"Your order {order_id} was refunded" if refunded_amount > 0 else f"Your order {order_id} could not be completed"
    return _message(order, MailKind.REFUND, subject, body, (settings, date))


def mail_path(mail_dir: Path, order_id: str, kind: MailKind | str) -> Path:
    """Where the order's mail of this kind is kept. No order's confirmation has the name of another's refund."""
    stem = file_stem(order_id)
    if MailKind(kind) is MailKind.REFUND:
        return mail_dir / f"{stem}-refund.eml"
    return mail_dir / (f"{stem}~confirmation.eml" if stem.endswith("-refund") else f"{stem}.eml")


def write_mail(path: Path, mail: bytes, *, durable: bool = False) -> None:
    """Wholly or not at all; writing the same mail again changes nothing."""
    write_atomic(path, mail, durable=durable)


def message_id(order_id: str, kind: MailKind, settings: Settings) -> str:
    """The same for the same order and kind, and for no other."""
    digest = hashlib.sha256(f"{kind}\n{order_id}".encode()).hexdigest()[:16]
    return f"<{kind}-{file_stem(order_id)}-{digest}@{settings.shop_email.rpartition('@')[2]}>"


@dataclass(frozen=True, slots=True)
class _Mail:
    to: Address
    headers: dict[str, str]
    """All but those of the content."""
    text: str


def _message(order: Order, kind: MailKind, subject: str, body: Sequence[str], about: tuple[Settings, datetime]) -> bytes:
    settings, date = about
    if date.utcoffset() is None:
        raise ValueError("a mail's date needs a time zone")
    to = _customer(order)
    if to is None:
        to, subject = _address("Support", settings.support_email), f"[customer has no e-mail address] {subject}"
    headers = {
        "From": str(_address(settings.shop_name, settings.shop_email)),
        "Reply-To": settings.support_email,
        "To": str(to),
        "Subject": _header(subject),
        "Date": format_datetime(date),
        "Message-ID": message_id(order.id, kind, settings),
        "Auto-Submitted": "auto-generated",
    }
    text = "\n\n".join([part for part in (*body, f"{settings.shop_name}\n{settings.support_email}\n") if part])
    mail = _Mail(to, headers, text)
    return _as_it_is(mail) or _encoded(mail)


def _as_it_is(mail: _Mail) -> bytes | None:
    """The message if nothing in it needs encoding or folding, which is most mails: the same bytes in a tenth of the time."""
    headers = [f"{name}: {value}" for name, value in mail.headers.items()]
    lines = [*headers, *_PLAIN_CONTENT, "", *mail.text.split("\n")]
    plain = all(line.isascii() and len(line) <= _LINE for line in lines)
    return "\r\n".join(lines).encode() if plain else None


def _encoded(mail: _Mail) -> bytes:
    message = EmailMessage(_PLAIN if mail.to.username.isascii() else _INTERNATIONAL)
    for name, value in mail.headers.items():
        message[name] = mail.to if name == "To" else value
    message.set_content(mail.text)
    return message.as_bytes()


def _customer(order: Order) -> Address | None:
    """Their address if it is one address and nothing more."""
    given = order.customer_email or ""
    if len(given) > 254 or not _ADDRESS.fullmatch(given):
        return None
    try:
        return _address(order.customer_name, given)
    except UnicodeError:  # no such domain can be
        return None


def _address(name: str | None, address: str) -> Address:
    user, _, domain = address.rpartition("@")
    return Address(_display_name(name), user, domain if domain.isascii() else domain.encode("idna").decode())


def _display_name(name: str | None) -> str:
    """Without what means something in an address: mail programs differ in how they read it even when it is quoted."""
    return _header((name or "").translate(_NOT_IN_NAMES))[:100].strip()


def _header(text: str) -> str:
    """One line in which nothing is an encoded word."""
    return one_line(text, 400).replace("=?", "= ?")
