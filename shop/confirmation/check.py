"""Whether a language model's text may leave: nothing in it but this order's facts, and no promise.

Strict on purpose. A text wrongly refused costs nothing, for the template takes over; a text wrongly let through may
cost money. What is a part of the full name of an item or a place is excused (a "Sugar-Free Gum" promises nothing), for
the template prints that name too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.facts import ConfirmationFacts
from shop.money import is_currency
from shop.order import Order
from shop.plain import folded
from shop.settings import Settings

Span = tuple[int, int]

_MAX_LENGTH = 20_000

_DOLLARS = frozenset("USD CAD AUD NZD SGD HKD TWD MXN ARS CLP COP JMD TTD BBD BSD BZD FJD NAD XCD".split())
_SIGNS: dict[str, Collection[str]] = {"$": _DOLLARS, "€": ["EUR"], "£": ["GBP", "EGP"], "¥": ["JPY", "CNY"], "₹": ["INR"], "₩": ["KRW"]}
_WORDS: dict[str, Collection[str]] = {
    "dollar": _DOLLARS,
    "buck": _DOLLARS,
    "euro": ["EUR"],
    "pound": ["GBP", "EGP"],
    "yen": ["JPY"],
    "rupee": ["INR"],
    "usd": ["USD"],
    "eur": ["EUR"],
    "gbp": ["GBP"],
}
_SIGN = r"[A-Z]{0,3}[$¢£¤¥฿\u20a0-\u20cf]"
_WORD = r"(?:[A-Z]{3}|(?i:(?:dollar|buck|euro|pound|rupee|cent)s?|yen|usd|eur|gbp))\b"
_MARK_BEFORE = re.compile(rf"({_SIGN}|\b{_WORD}) ?-?$")
_MARK_AFTER = re.compile(rf" ?({_SIGN}|{_WORD})")

_NUMBER = re.compile(r"\d+(?:[.,'’]\d+)*")
_AS_WE_WRITE = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_MONEY_WORD = re.compile(
    r"\b(?:(?:sub-?)?total|amount|price|cost|sum|tax|pay|paid|charged?|balance)s?(?: is| was| of| at| to| comes to)?[: ]*$", re.IGNORECASE
)
_IN_WORDS = re.compile(r"\b(?:hundred|thousand|million)\b|\b[a-z-]+ (?:dollars|bucks|euros|cents)\b", re.IGNORECASE)

_TOKEN = re.compile(r"#?\w+(?:[-_/]+\w+)*")
_NUMBERED_ORDER = re.compile(r"\border (?:id|number|no\.?|nr\.?)(?: is)?[ :#]*(?=[\w-]*\d)([\w-]+)", re.IGNORECASE)

_MAIL = re.compile(r"\S*@\S*")
_LINK = re.compile(r"\b[a-z][a-z0-9+.-]*://|\bwww\.|\b(?:mailto|tel):|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}\b", re.IGNORECASE)
_PHONE = re.compile(r"\+?\(?\d(?:[ ()./-]{0,2}\d){6,}")
_TWO_SCRIPTS = re.compile(r"[A-Za-z][\u0370-\u04ff]|[\u0370-\u04ff][A-Za-z]")

_PROMISE = re.compile(
    r"\b(?:refund\w*|reimburs\w*|money[- ]back|cash[- ]?back|discount\w*|rebate\w*|voucher\w*|coupon\w*|compensat\w*|store credit"
    r"|(?<!feel )free|free(?! to\b)|complimentary|no (?:extra |additional )?(?:cost|charge)s?|without (?:any )?(?:cost|charge)s?"
    r"|waive\w*|half[- ]price|bonus\w*|guarant\w*|warrant\w*|promis\w*)\b|\d ?(?:%|percent\b)",
    re.IGNORECASE,
)
_DELIVERY = re.compile(
    r"\b(?:\d+(?: ?(?:-|to|or) ?\d+)?|a|an|one|two|three|few) ?(?:(?:business|working) )?(?:day|hour|week)s?\b"
    r"|\b(?:overnight|tomorrow|(?:same|next)[- ](?:business )?day)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and where this order's own facts stand in it."""

    text: str
    exact: tuple[Span, ...]
    """Facts that may stand by themselves though they look like a number of something else: order id, zip code, item names."""
    names: tuple[Span, ...]
    """Whole names, within which anything is excused."""

    def known(self, span: Span) -> bool:
        return any(start <= span[0] and span[1] <= end for start, end in self.exact)

    def excused(self, span: Span) -> bool:
        """Whether it is part of a name, with another word beside it: a customer who is called "Refund" excuses nothing."""
        return any(
            start <= span[0] and span[1] <= end and sum(map(str.isalpha, self.text[start : span[0]] + self.text[span[1] : end])) >= 3
            for start, end in self.names
        )


def wrong_facts(texts: Mapping[str, str], order: Order, facts: ConfirmationFacts, settings: Settings) -> list[str]:
    """What is wrong with the texts; empty if they may leave. Quotes nothing of them but numbers and words of our own lists."""
    plain = folded("\n".join(texts.get(name, "") for name in ELEMENTS))
    if len(plain) > _MAX_LENGTH:
        return ["too long"]
    text = _Text(plain, tuple(_whole(_exact_facts(order, facts), plain)), tuple(_whole(_names(order, facts, settings), plain)))
    found = [] if any(_whole([facts.order_id], plain)) else ["order id missing"]
    found += [*_amounts(text, order), *_numbers_of_others(text), *_contacts(text, settings), *_promises(text)]
    return list(dict.fromkeys(found))


def _exact_facts(order: Order, facts: ConfirmationFacts) -> list[str]:
    zip_code = (order.shipping_info.zip if order.shipping_info else None) or ""
    return [facts.order_id, zip_code, *(item.name for item in facts.items)]


def _names(order: Order, facts: ConfirmationFacts, settings: Settings) -> list[str]:
    to, delivery = order.shipping_info, folded(settings.estimated_delivery)
    places = [to.name or "", to.address, to.city, facts.shipping_address] if to else []
    ours = [settings.shop_name, delivery, delivery.replace("-", " to ")]
    return [*(item.name for item in facts.items), facts.customer_name, *places, *ours]


def _whole(facts: Iterable[str], text: str) -> Iterator[Span]:
    """Where each fact stands by itself: ORDER-1001 does not stand in ORDER-10012."""
    for fact in {folded(fact) for fact in facts} - {""}:
        for match in re.finditer(rf"(?<![\w-])(?<!\w[./]){re.escape(fact)}(?![\w-]|[./]\w)", text):
            yield match.span()


def _amounts(text: _Text, order: Order) -> Iterator[str]:
    """Numbers that are money, or too long to be anything else, and are not this order's."""
    ours = {order.total_amount, order.items_total, order.tax_amount, order.shipping_amount, order.discount_amount}
    ours.update(amount for item in order.items for amount in (item.price, item.price * item.quantity))
    counts = {item.quantity for item in order.items} | {sum(item.quantity for item in order.items), len(order.items)}
    for match in _NUMBER.finditer(text.text):
        number, span, marks = match.group(), *_with_marks(text.text, match.span())
        if text.excused(span) or (not marks and text.known(span)):
            continue
        value = Decimal(number.replace(",", "")) if _AS_WE_WRITE.fullmatch(number) else None
        if any(order.currency not in _currencies(mark) for mark in marks):
            yield f"amount {number[:20]} in another currency"
        elif value in ours or (value in counts and not marks):
            continue
        elif marks or len(number) >= 3 or _MONEY_WORD.search(text.text[max(0, span[0] - 40) : span[0]]):
            yield f"amount or number {number[:20]} is not of this order"
    if any(not text.excused(match.span()) for match in _IN_WORDS.finditer(text.text)):
        yield "amount in words"


def _with_marks(text: str, span: Span) -> tuple[Span, list[str]]:
    """The currency signs, codes and words beside a number, and the span with them."""
    start, end = span
    marks = []
    before, after = _MARK_BEFORE.search(text[max(0, start - 12) : start]), _MARK_AFTER.match(text, end)
    if before and _is_mark(before[1]):
        marks.append(before[1])
        start -= len(before[0])
    if after and _is_mark(after[1]):
        marks.append(after[1])
        end = after.end()
    return (start, end), marks


def _is_mark(mark: str) -> bool:
    """Three capitals are a mark only if they are a currency: "2 USB cables" is no money."""
    return not re.fullmatch("[A-Z]{3}", mark) or is_currency(mark)


def _currencies(mark: str) -> Collection[str]:
    """The currencies that it may stand for; none if we do not know it."""
    if is_currency(mark):
        return [mark]
    prefix, sign = mark[:-1], mark[-1]
    if sign in _SIGNS:
        return [code for code in _SIGNS[sign] if code.startswith(prefix)]
    return _WORDS.get(mark.lower().removesuffix("s"), [])


def _numbers_of_others(text: _Text) -> Iterator[str]:
    if any(not text.known(match.span(1)) for match in _NUMBERED_ORDER.finditer(text.text)):
        yield "another order's number"
    for match in _TOKEN.finditer(text.text):
        token, (start, end) = match.group(), match.span()
        numbered = token.startswith("#")
        like_an_id = sum(map(str.isdigit, token)) >= 3 and any(map(str.isalpha, token))
        if (numbered or like_an_id) and not (text.known((start + numbered, end)) or text.excused((start, end))):
            yield "something like another order's or a tracking number"


def _contacts(text: _Text, settings: Settings) -> Iterator[str]:
    support = folded(settings.support_email).lower()
    addresses = [match.span() for match in _MAIL.finditer(text.text)]
    if any(text.text[start:end].strip("()<>[],.;:!?\"'").lower() != support for start, end in addresses):
        yield "e-mail address"
    for match in _LINK.finditer(text.text):
        in_address = any(start <= match.start() and match.end() <= end for start, end in addresses)
        if not in_address and not text.excused(match.span()):
            yield "link"
    for match in _PHONE.finditer(text.text):
        if not (text.known(match.span()) or text.excused(match.span()) or _AS_WE_WRITE.fullmatch(match.group())):
            yield "phone number"
    if any(not text.excused(match.span()) for match in _TWO_SCRIPTS.finditer(text.text)):
        yield "two scripts in one word"


def _promises(text: _Text) -> Iterator[str]:
    for match in _PROMISE.finditer(text.text):
        if not text.excused(match.span()):
            yield f"promise: {match.group()[:20].lower()}"
    for match in _DELIVERY.finditer(text.text):
        if not any(start <= match.start() and match.end() <= end for start, end in text.names):
            yield "another delivery time"
