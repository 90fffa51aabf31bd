"""The mails that a customer gets, in their language: text and HTML, from the templates.

Any text of an order may be hostile: nothing of it can add a header, another recipient, a tag, or lines that look like ours.
The same order and kind of an installation always has the same Message-ID, so that a resend is recognised as one.
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
from shop.notifications.kinds import Kind, what_it_is
from shop.notifications.language import Language, language_of
from shop.notifications.layout import item_name, order_table
from shop.notifications.message import Mail, message
from shop.notifications.templates import render
from shop.orders.names import stem
from shop.orders.order import Order
from shop.payments.errors import NoDeliveryAddress, PaymentDeclined, PaymentLapsed
from shop.settings import Settings
from shop.text.domains import ascii_domain
from shop.text.sanitize import one_line, paragraphs

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]+(\.[\w-]+)+")
_NOT_IN_NAMES = str.maketrans(dict.fromkeys('<>@,;:"\\()[]', " "))
_NEWS = {SagaCancelled.code: "refund.cancelled", SagaReturned.code: "refund.returned", OutOfStock.code: "refund.out_of_stock"}
_PAYMENT_NEWS = {PaymentDeclined.code: "payment_failed.declined", PaymentLapsed.code: "payment_failed.lapsed"}
_NOTICE = "notice"
"""The template of what has no part of its own."""


@dataclass(frozen=True, slots=True)
class About:
    """What every mail says besides its news."""

    settings: Settings
    date: datetime
    """When it was due; aware."""
    installation: str = ""
    """Our installation id; empty for what an earlier version made due, which must keep its Message-ID."""


def mail(order: Order, kind: Kind, payload: Mapping[str, Any], about: About) -> Mail:
    """The mail of this kind, made of what the outbox has kept for it. KeyError and the like if something is missing there."""
    match kind:
        case Kind.CONFIRMATION:
            return confirmation_mail(order, payload["confirmation"] or {}, str(payload["tracking_number"]), about)
        case Kind.REFUND:
            return refund_mail(order, Decimal(payload["amount"]), str(payload["currency"]), about, why=payload.get("why"))
        case Kind.PAYMENT_FAILED:
            return payment_failed_mail(order, about, why=payload.get("why"))
        case Kind.INCOMPLETE:
            return incomplete_mail(order, about, why=str(payload["why"]))
        case Kind.OUT_OF_STOCK:
            return out_of_stock_mail(order, payload["shortages"], about)


def confirmation_mail(order: Order, texts: Mapping[str, Any], tracking_number: str, about: About) -> Mail:
    """The confirmation with the order's table, and a link to follow the parcel (`TRACKING_URL`) beside its number."""
    language, number, s = _language(order, about), one_line(tracking_number), about.settings
    table = order_table(order, language)
    greeting, summary, next_steps, tracking = [paragraphs(str(texts.get(name) or "")) for name in ELEMENTS]
    values = {
        "before": [*_paragraphs(greeting), *_paragraphs(summary)],
        "after": [*_paragraphs(next_steps), *_paragraphs(tracking)],
        "table": table,
        "total": table.total,
        "tracking_number": number,
        "link": s.shipping.tracking_url.replace("{tracking_number}", quote(number, safe="")) if s.shipping.tracking_url else None,
    }
    return _mail(order, Kind.CONFIRMATION, "confirmation", values, about, preview={"total": table.total})


def refund_mail(order: Order, refunded: Decimal, currency: str, about: About, *, why: str | None = None) -> Mail:
    """Tells what became of the order (`why` is the code of its failure), and how much money went back: that, and no other amount."""
    language = _language(order, about)
    amount = language.money(refunded, currency)
    news = language.say(_NEWS.get(why or "", "refund.sorry"), order_id=one_line(order.id))
    values = {"before": [_hello(order, language), news], "important": language.say("refund.money", amount=amount)}
    return _mail(order, Kind.REFUND, _NOTICE, {**values, "after": [language.say("refund.when")]}, about, preview={"amount": amount})


def payment_failed_mail(order: Order, about: About, *, why: str | None = None) -> Mail:
    """Tells that nothing was charged and what to do. The bank's reason is the bank's to tell."""
    language = _language(order, about)
    news = language.say(_PAYMENT_NEWS.get(why or "", "payment_failed.failed"), order_id=one_line(order.id))
    to_do = language.say("payment_failed.to_do" if why == PaymentDeclined.code else "payment_failed.to_do_again")
    values = {"before": [_hello(order, language), news], "important": language.say("payment_failed.not_charged"), "after": [to_do]}
    return _mail(order, Kind.PAYMENT_FAILED, _NOTICE, values, about)


def incomplete_mail(order: Order, about: About, *, why: str) -> Mail:
    """Tells what the order came without (`why` is the code of its failure), that nothing was charged, and what to do."""
    language, part = _language(order, about), "address" if why == NoDeliveryAddress.code else "payment"
    news = language.say(f"incomplete.no_{part}", order_id=one_line(order.id))
    to_do = language.say(f"incomplete.to_do_{part}")
    values = {"before": [_hello(order, language), news], "important": language.say("incomplete.not_charged"), "after": [to_do]}
    return _mail(order, Kind.INCOMPLETE, _NOTICE, values, about)


def out_of_stock_mail(order: Order, shortages: Sequence[Mapping[str, Any]], about: About) -> Mail:
    """Tells which items are short: asked for and there, as it was when the order was tried."""
    language, names = _language(order, about), {item.product_id: item_name(item) for item in order.items}
    news = language.say("out_of_stock.sorry", order_id=one_line(order.id))
    short = [
        (names.get(s["product_id"], one_line(s["product_id"])), str(int(s["requested"])), str(max(0, int(s["available"]))))
        for s in shortages
    ]
    values = {
        "before": [_hello(order, language), news],
        "short": short,
        "important": language.say("out_of_stock.not_charged"),
        "after": [language.say("out_of_stock.to_do")],
    }
    return _mail(order, Kind.OUT_OF_STOCK, "out_of_stock", values, about)


def message_id(order_id: str, kind: Kind, settings: Settings, installation: str) -> str:
    """The same for the same order and kind, and for no other; also not for another shop's order with the same id."""
    digest = hashlib.sha256(what_it_is(order_id, kind, installation).encode()).hexdigest()[:16]
    return f"<{kind}-{stem(order_id)}-{digest}@{settings.shop.email.rpartition('@')[2]}>"


def _language(order: Order, about: About) -> Language:
    return language_of(order.shipping_info.country if order.shipping_info else None, about.settings)


def _hello(order: Order, language: Language) -> str:
    return language.say("hello", name=order.addressee or language.say("nobody"))


def _paragraphs(text: str) -> list[str]:
    """Each with its line breaks, which a mail program's HTML shows as blanks."""
    return [part for part in text.split("\n\n") if part]


def _mail(
    order: Order, kind: Kind, template: str, values: Mapping[str, Any], about: About, *, preview: Mapping[str, str] | None = None
) -> Mail:
    s, language = about.settings, _language(order, about)
    if about.date.utcoffset() is None:
        raise ValueError("a mail's date needs a time zone")
    order_id = one_line(order.id)
    text, html = render(
        template,
        {
            "lang": language.code,
            "say": language.say,
            "title": language.say(f"{kind}.title"),
            "preview": language.say(f"{kind}.preview", **(preview or {})),
            "order_id": order_id,
            "day": language.day(about.date),
            "shop": s.shop.name,
            "support": s.shop.support_email,
            **values,
        },
    )
    to, subject = _customer(order), language.say(f"{kind}.subject", order_id=order_id)
    if to is None:
        to, subject = address_of("Support", s.shop.support_email), f"[customer has no e-mail address] {subject}"
    headers = {
        "From": str(address_of(s.shop.name, s.shop.email)),
        "Reply-To": s.shop.support_email,
        "To": str(to),
        "Subject": _header(subject),
        "Date": format_datetime(about.date),
        "Message-ID": message_id(order.id, kind, s, about.installation),
        "Auto-Submitted": "auto-generated",
    }
    return Mail(s.shop.email, to.addr_spec, message(to, headers, text, html))


def _customer(order: Order) -> Address | None:
    """Their address if it is one address and nothing more."""
    given = order.customer_email or ""
    if len(given) > 254 or not _ADDRESS.fullmatch(given):
        return None
    try:
        return address_of(order.addressee, given)
    except UnicodeError:  # no such domain can be
        return None


def address_of(name: str | None, address: str) -> Address:
    """With a name in which nothing means something. UnicodeError if there can be no such domain."""
    user, _, domain = address.rpartition("@")
    return Address(_display_name(name), user, ascii_domain(domain))


def _display_name(name: str | None) -> str:
    """Without what means something in an address: mail programs differ in how they read it even when it is quoted."""
    return _header((name or "").translate(_NOT_IN_NAMES))[:100].strip()


def _header(text: str) -> str:
    """One line in which nothing is an encoded word."""
    return one_line(text, 400).replace("=?", "= ?")
