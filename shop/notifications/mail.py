"""Builds the mails to customers from the templates, as text and HTML, in the customer's language.

Any text of an order may be hostile: it cannot add a header, a recipient, a tag, or lines that look like ours.
The same installation, order, try and kind always have the same Message-ID, so that receivers recognise a
resent mail.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.headerregistry import Address
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

from saga.errors import SagaCancelled, SagaReturned
from shop.confirmation.confirmation import ELEMENTS
from shop.inventory.errors import OutOfStock
from shop.notifications.kinds import Kind, identity
from shop.notifications.language import Language, language_of
from shop.notifications.layout import item_name, order_table, render
from shop.notifications.message import Mail, message
from shop.orders.names import stem
from shop.orders.order import Order
from shop.orders.parts import BANK_TRANSFER, CHARGED
from shop.payments.errors import NoDeliveryAddress, PaymentDeclined, PaymentLapsed
from shop.settings import Settings
from shop.text.domains import ascii_domain
from shop.text.sanitize import one_line, paragraphs

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]+(\.[\w-]+)+")
_NOT_IN_NAMES = str.maketrans(dict.fromkeys('<>@,;:"\\()[]', " "))
_REFUND_NEWS = {
    SagaCancelled.code: "refund.cancelled",
    SagaReturned.code: "refund.returned",
    OutOfStock.code: "refund.out_of_stock",
}
_PAYMENT_NEWS = {PaymentDeclined.code: "declined", PaymentLapsed.code: "lapsed"}


@dataclass(frozen=True, slots=True)
class MailContext:
    """The data that all mails need."""

    settings: Settings
    date: datetime
    """When the mail became due, with a time zone."""
    installation: str = ""
    """The installation id; empty for mails of an earlier version, which must keep their Message-IDs."""
    try_number: int = 1
    """The order's try that the mail is about."""


def mail(order: Order, kind: Kind, payload: Mapping[str, Any], context: MailContext) -> Mail:
    """Builds the mail of this kind from its outbox payload. Raises KeyError and the like if the payload is
    incomplete."""
    match kind:
        case Kind.CONFIRMATION:
            return confirmation_mail(
                order, payload["confirmation"] or {}, payload["tracking_number"], context
            )
        case Kind.REFUND:
            return refund_mail(
                order, Decimal(payload["amount"]), str(payload["currency"]), context, why=payload.get("why")
            )
        case Kind.PAYMENT_FAILED:
            return payment_failed_mail(order, context, why=payload.get("why"))
        case Kind.INCOMPLETE:
            return incomplete_mail(order, context, why=str(payload["why"]))
        case Kind.OUT_OF_STOCK:
            return out_of_stock_mail(order, payload["shortages"], context)
        case Kind.AWAITING_PAYMENT:
            amount, currency = Decimal(payload["amount"]), str(payload["currency"])
            return awaiting_payment_mail(order, amount, currency, context)


def confirmation_mail(
    order: Order, texts: Mapping[str, Any], tracking_number: str | None, context: MailContext
) -> Mail:
    """Builds the confirmation with the order's table, the tracking number, and a tracking link
    (`TRACKING_URL`); without them, if nothing is shipped (None)."""
    language, number, s = _language(order, context), one_line(tracking_number), context.settings
    method = order.payment_info.method if order.payment_info and order.amount_due else None
    collects = method in s.payments.ship_before_payment
    table = order_table(order, language, collects=collects)
    greeting, summary, next_steps, tracking = [paragraphs(str(texts.get(name) or "")) for name in ELEMENTS]
    how_to_pay: list[str] = []
    if collects and method == BANK_TRANSFER:
        how_to_pay = [
            _transfer(order, order.amount_due, order.currency, context),
            *_account(context, language),
        ]
    values = {
        "before": [*_paragraphs(greeting), *_paragraphs(summary)],
        "after": [*_paragraphs(next_steps), *_paragraphs(tracking), *how_to_pay],
        "table": table,
        "total": table.total,
        "tracking_number": number,
        "link": s.shipping.tracking_url.replace("{tracking_number}", quote(number, safe=""))
        if s.shipping.tracking_url and number
        else None,
    }
    if not number:
        values["preview"] = language.say("confirmation.preview_digital", total=table.total)
    return _mail(order, Kind.CONFIRMATION, "confirmation", values, context, preview={"total": table.total})


def refund_mail(
    order: Order, refunded: Decimal, currency: str, context: MailContext, *, why: str | None = None
) -> Mail:
    """Builds the mail about a refund: what happened to the order (`why` is the code of its failure), and the
    refunded amount, without any other amount."""
    language = _language(order, context)
    amount = language.money(refunded, currency)
    news = language.say(_REFUND_NEWS.get(why or "", "refund.sorry"), order_id=order.number)
    return _notice(
        order,
        Kind.REFUND,
        news,
        context,
        important=language.say("refund.money", amount=amount),
        after=[language.say("refund.when")],
        preview={"amount": amount},
    )


def payment_failed_mail(order: Order, context: MailContext, *, why: str | None = None) -> Mail:
    """Builds the mail about a failed payment: nothing was charged, and what to do. It does not give the
    bank's reason."""
    key, important = _PAYMENT_NEWS.get(why or "", "failed"), "not_charged"
    if why == PaymentLapsed.code and order.payment_info and order.payment_info.method not in CHARGED:
        key, important = "not_received", "do_not_pay"
    to_do = "to_do" if why == PaymentDeclined.code else "to_do_again"
    return _plain_notice(order, Kind.PAYMENT_FAILED, (key, important, to_do), context)


def incomplete_mail(order: Order, context: MailContext, *, why: str) -> Mail:
    """Builds the mail about an incomplete order: what is missing (`why` is the code of its failure), that
    nothing was charged, and what to do."""
    part = "address" if why == NoDeliveryAddress.code else "payment"
    return _plain_notice(order, Kind.INCOMPLETE, (f"no_{part}", "not_charged", f"to_do_{part}"), context)


def out_of_stock_mail(order: Order, shortages: Sequence[Mapping[str, Any]], context: MailContext) -> Mail:
    """Builds the mail about items out of stock, with the ordered
    and the available quantities at that time."""
    names = {item.product_id: item_name(item) for item in order.items}
    short = [
        (
            names.get(s["product_id"], one_line(s["product_id"])),
            str(int(s["requested"])),
            str(max(0, int(s["available"]))),
        )
        for s in shortages
    ]
    keys = ("sorry", "not_charged", "to_do")
    return _plain_notice(order, Kind.OUT_OF_STOCK, keys, context, template="out_of_stock", short=short)


def awaiting_payment_mail(order: Order, amount: Decimal, currency: str, context: MailContext) -> Mail:
    """Builds the mail that asks for a transfer: how much, with which reference, and where to."""
    language = _language(order, context)
    days = language.say("awaiting_payment.days", days=context.settings.payments.transfer_days)
    news = language.say("awaiting_payment.thanks", order_id=order.number)
    return _notice(
        order,
        Kind.AWAITING_PAYMENT,
        news,
        context,
        important=_transfer(order, amount, currency, context),
        after=[*_account(context, language), days],
        preview={"amount": language.money(amount, currency)},
    )


def _plain_notice(
    order: Order, kind: Kind, keys: tuple[str, str, str], context: MailContext, **values: Any
) -> Mail:
    """Builds a notice of three texts of its kind: the news, what is important, what to do."""
    say = _language(order, context).say
    news, important, to_do = (say(f"{kind}.{key}", order_id=order.number) for key in keys)
    return _notice(order, kind, news, context, important=important, after=[to_do], **values)


def _notice(
    order: Order,
    kind: Kind,
    news: str,
    context: MailContext,
    *,
    template: str = "notice",
    preview: Mapping[str, str] | None = None,
    **values: Any,
) -> Mail:
    """Builds a mail of the news, of what is `important`, and of paragraphs `after` that."""
    before = [_hello(order, _language(order, context)), news]
    return _mail(order, kind, template, {"before": before, **values}, context, preview=preview)


def _transfer(order: Order, amount: Decimal, currency: str, context: MailContext) -> str:
    language = _language(order, context)
    shown = language.money(amount, currency)
    return language.say("awaiting_payment.transfer", amount=shown, order_id=order.number)


def _account(context: MailContext, language: Language) -> list[str]:
    """Returns the paragraphs about the shop's bank account, or about whom to ask for it."""
    shop = context.settings.shop
    if not (details := paragraphs(shop.bank_details or "")):
        return [language.say("awaiting_payment.ask", support=shop.support_email)]
    return [f"{language.say('awaiting_payment.account')}\n{details}"]


def message_id(order_id: str, kind: Kind, settings: Settings, installation: str, try_number: int = 1) -> str:
    """Returns the Message-ID, unique for installation, order and kind."""
    digest = hashlib.sha256(identity(order_id, kind, installation, try_number).encode()).hexdigest()[:16]
    return f"<{kind}-{stem(order_id)}-{digest}@{settings.shop.email.rpartition('@')[2]}>"


def _language(order: Order, context: MailContext) -> Language:
    return language_of(order, context.settings)


def _hello(order: Order, language: Language) -> str:
    return language.say("hello", name=order.addressee or language.say("nobody"))


def _paragraphs(text: str) -> list[str]:
    """Returns the text's paragraphs. They keep their line breaks."""
    return [part for part in text.split("\n\n") if part]


def _mail(
    order: Order,
    kind: Kind,
    template: str,
    values: Mapping[str, Any],
    context: MailContext,
    *,
    preview: Mapping[str, str] | None = None,
) -> Mail:
    s, language = context.settings, _language(order, context)
    if context.date.utcoffset() is None:
        raise ValueError("a mail's date needs a time zone")
    order_id = order.number
    text, html = render(
        template,
        {
            "lang": language.code,
            "say": language.say,
            "title": language.say(f"{kind}.title"),
            "preview": language.say(f"{kind}.preview", **(preview or {})),
            "order_id": order_id,
            "day": language.day(context.date),
            "shop": s.shop.name,
            "support": s.shop.support_email,
            **values,
        },
    )
    to, subject = _customer(order), language.say(f"{kind}.subject", order_id=order_id)
    if to is None:
        to = address_of("Support", s.shop.support_email)
        subject = f"[customer has no e-mail address] {subject}"
    headers = {
        "From": str(address_of(s.shop.name, s.shop.email)),
        "Reply-To": s.shop.support_email,
        "To": str(to),
        "Subject": _header(subject),
        "Date": format_datetime(context.date),
        "Message-ID": message_id(order.id, kind, s, context.installation, context.try_number),
        "Auto-Submitted": "auto-generated",
    }
    return Mail(s.shop.email, to.addr_spec, message(to, headers, text, html))


def _customer(order: Order) -> Address | None:
    """Returns the customer's address, or None if it is not exactly one valid address."""
    given = order.customer_email or ""
    if len(given) > 254 or not _ADDRESS.fullmatch(given):
        return None
    try:
        return address_of(order.addressee, given)
    except UnicodeError:  # an impossible domain
        return None


def address_of(name: str | None, address: str) -> Address:
    """Returns the address with a display name without special characters. Raises UnicodeError if the domain
    is impossible."""
    user, _, domain = address.rpartition("@")
    return Address(_display_name(name), user, ascii_domain(domain))


def _display_name(name: str | None) -> str:
    """Removes the characters with a meaning in addresses: mail programs interpret them differently, even if
    quoted."""
    return _header((name or "").translate(_NOT_IN_NAMES))[:100].strip()


def _header(text: str) -> str:
    """Returns the text as one line that contains no encoded word."""
    return one_line(text, 400).replace("=?", "= ?")
