"""Turns submitted data into what may be stored: an id, clean JSON and a fingerprint.

Only the order's fields are kept; unknown fields are dropped unless they are for card data or resemble an
important field's name. A field for card data makes the order invalid: its value is replaced by a mark, so
that validation can name the place without repeating it. In free text a card number is masked. Ids and numbers
are not searched: an id may have sixteen digits.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ValidationError

from shop.orders import fingerprints
from shop.orders.errors import Problem, UnusableOrder, kind
from shop.orders.field_names import is_empty, misnamed
from shop.orders.names import MAX_ORDER_ID
from shop.orders.order import Order
from shop.orders.parts import BillingInfo, Fee, Item, PartPayment, PaymentInfo, ShippingInfo, ShippingLine
from shop.text import card_numbers
from shop.text.sanitize import UNSEEN

REMOVED = "[removed: "
CARD_REMOVED = "[removed: looked like a card number]"
CODE_REMOVED = "[removed: looked like a card's security code]"
TOO_LONG = "[removed: was longer than 2,000 characters]"
TOO_LARGE = "[removed: was a number of more than 30 digits]"
TOO_DEEP = "[removed: was nested too deeply]"
TOO_MANY = "[removed: had more than 1,000 entries]"
_MORE = "~more"
NOT_JSON = "[removed: was not JSON]"
CONTROL = "[removed: contained control characters]"
OTHER_CURRENCY = "[removed: named another currency than the order]"
MISNAMED = "[misnamed: "
REFUSED = "[refused: "
"""Begins the mark of what another system's order has and this project's has not: given; expected."""
_MARKS = frozenset({CARD_REMOVED, CODE_REMOVED, TOO_LONG, TOO_LARGE, TOO_DEEP, TOO_MANY, NOT_JSON, CONTROL})

HAS_REMOVED = "~removed"
"""The key under which content records removed fields: the places of fields that are not kept at all, with
their marks."""

MAX_DEPTH = 8
"""Limits the nesting of lists and objects, in levels; deeper values are not kept."""
_MAX_TEXT, _MAX_ENTRIES = 2_000, 1_000
_LARGEST_FLOAT = 1e30
_MAX_PLACE = 200
"""Limits a field's place, in characters."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_HALF = re.compile(r"[\ud800-\udfff]")
_ESCAPED_CONTROL = re.compile(r"\\u00[01]|\\[bf]")
_ESCAPED_SIGN = re.compile(r"\\[ntr\"\\]")
_INTEGER_PART = re.compile(r"\s*[+-]?(\d+)(\.\d*)?\s*")
_UNSEEN = re.compile(f"[{UNSEEN}]")
_IS_REMOVED = re.compile(rf'(?<!\\)"{re.escape(REMOVED)}')
"""A text in JSON that begins as a mark does: a quote within a text has a backslash before it."""
_MARK = re.compile(r"\[(removed|misnamed): [^\[\]]{1,100}\]|\[refused: [^\[\]]{1,200}\]")

_PARTS: Mapping[str, type[BaseModel]] = {
    "payment_info": PaymentInfo,
    "shipping_info": ShippingInfo,
    "billing_info": BillingInfo,
}
_LISTS: Mapping[str, type[BaseModel]] = {
    "items": Item,
    "shipping_lines": ShippingLine,
    "fees": Fee,
    "part_payments": PartPayment,
}
_PAYMENTS = (PaymentInfo, PartPayment)
_IDS = frozenset({"id", "customer_id", "product_id"})
NUMBERS = frozenset(
    "quantity price line_total total_amount tax_amount shipping_amount discount_amount tip_amount amount "
    "weight_grams".split()
)
_DISPLAY_ONLY: Mapping[type[BaseModel], frozenset[str]] = {
    Order: frozenset({"notes", "order_number", "locale"}),
    Item: frozenset({"name", "sku", "variant"}),
    ShippingLine: frozenset({"title"}),
    Fee: frozenset({"name"}),
}
"""Texts that are cut where they are too long, and not a reason to refuse the order."""
_FREE = frozenset({"metadata", "properties"})
"""Objects with any content; long texts in them are cut, too."""
_DOTS = "..."
_MOST_IGNORED = 50
"""Limits the places of unknown fields that a receipt lists."""
_ABOUT_CARDS = frozenset({"method", "card_last4", "token", "reference", "provider"})
# Names in lower case, without separators.
_CODE_FIELD = re.compile(r".*(cvv|cvc|securitycode).*|csc")
_CODE_RESULT = re.compile(r".*(result|check|response|status|match).*")
"""The result of a bank's check of a code, which is not the code."""
_CARD_FIELD = re.compile(
    r".*(cardnumber|cardno|cardnum)|(cc|ccnumber|ccno|ccnum|pan|cardpan|creditcard|debitcard|primaryaccountnumber)"
)
_CARD_FIELD_IN_PAYMENT = frozenset({"number", "card", "account", "accountnumber"})
_PAYMENT_FIELD = re.compile(r".*(payment|card|billing).*")


@dataclass(frozen=True, slots=True)
class Content:
    """An order as it may be stored."""

    order_id: str
    text: str
    """JSON. For a well-formed order: all fields of `Order` that differ from their defaults, normalised, so
    that 9.9 and "9.90" are the same."""
    fingerprint: str
    """Equal for the same order; see `shop.orders.fingerprints`."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """The places of fields with a value that an order does not have."""

    def is_same_as(self, fingerprint: str, content: Mapping[str, Any] | None) -> bool:
        """Whether this order is the stored one. `content` is the stored order's, needed only if the
        fingerprints differ."""
        return fingerprint == self.fingerprint or fingerprints.is_same(self.text, fingerprint, content)


def take_in(raw: object) -> Content:
    """Makes an order storable. Raises `UnusableOrder` if it has no usable id."""
    if isinstance(raw, BaseModel):
        raw = raw.model_dump(mode="json")
    if not isinstance(raw, Mapping):
        raise UnusableOrder([Problem("order", kind(raw), "an object with an id")])
    order_id = usable_id(raw.get("id"))
    return _well_formed(raw, order_id) or _cleaned(raw, order_id)


def usable_id(given: object) -> str:
    """Returns the id as it is stored. Raises `UnusableOrder` if it cannot be an order's id."""
    expected = f"text of 1 to {MAX_ORDER_ID} characters"
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 10**30:
        given = str(given)
    if not isinstance(given, str) or not given.strip():
        raise UnusableOrder([Problem("id", "nothing" if isinstance(given, str) else kind(given), expected)])
    order_id = given.strip()
    if len(order_id) > MAX_ORDER_ID:
        raise UnusableOrder([Problem("id", f"{len(order_id)} characters", expected)])
    if not order_id.isascii() or not order_id.isprintable():
        _require_visible(order_id, expected)
    return order_id


def _require_visible(order_id: str, expected: str) -> None:
    """Refuses ids that would look like another id: both orders would be charged."""
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in order_id):
        raise UnusableOrder([Problem("id", "control characters in it", expected)])
    if any(unicodedata.category(c) == "Cf" or (c != " " and _UNSEEN.match(c)) for c in order_id):
        raise UnusableOrder([Problem("id", "invisible characters or unusual blanks in it", expected)])
    if not unicodedata.is_normalized("NFC", order_id):
        raise UnusableOrder(
            [Problem("id", "letters with separate accents", f"{expected}, in Unicode's composed form (NFC)")]
        )


def _well_formed(raw: Mapping[Any, Any], order_id: str) -> Content | None:
    """Returns the content of a well-formed, harmless order; None if it needs the full check."""
    try:
        order = Order.model_validate(raw, extra="forbid")
        text = fingerprints.dumped(order)
    except (ValidationError, ValueError, TypeError, RecursionError):  # TypeError: half a surrogate pair
        return None
    if order.metadata is not None or any(item.properties is not None for item in order.items):
        return None  # their keys may name card data
    if len(text) > _MAX_TEXT or REMOVED in text or "\x7f" in text or order.id != order_id:
        return None
    escapes = "\\" in text
    if escapes and _ESCAPED_CONTROL.search(text):
        return None
    if card_numbers.has_card_number(_ESCAPED_SIGN.sub(" ", text) if escapes else text):
        return None
    payments: list[PaymentInfo | PartPayment] = [*order.part_payments]
    if order.payment_info is not None:
        payments.append(order.payment_info)
    if any(_is_card(*each) for payment in payments for each in _texts_about_cards(payment)):
        return None
    return Content(order_id, text, fingerprints.of(text))


def _texts_about_cards(payment: PaymentInfo | PartPayment) -> list[tuple[str, str]]:
    return [(name, text) for name in _ABOUT_CARDS if (text := getattr(payment, name, None))]


def _cleaned(raw: Mapping[Any, Any], order_id: str) -> Content:
    refused: dict[str, str] = {}
    if isinstance(known := raw.get(HAS_REMOVED), Mapping):  # content that was taken in already
        marks = itertools.islice(known.items(), _MAX_ENTRIES)
        refused = {
            _clean_key(key): mark for key, mark in marks if isinstance(mark, str) and _MARK.fullmatch(mark)
        }
    ignored: list[str] = []
    cleaned = {**_clean_part(raw, Order, "", refused, ignored), "id": order_id}
    refused |= dict(itertools.islice(_other_currencies(raw), _MAX_ENTRIES))
    # Sorted as stored: a second intake keeps the same ones.
    refused = dict(sorted(refused.items())[:_MAX_ENTRIES])
    text = _dumped(cleaned)
    unknown = _listed(place for place in ignored if place not in refused)
    if refused or _IS_REMOVED.search(text):
        text = _dumped({**cleaned, HAS_REMOVED: refused})
    else:
        with contextlib.suppress(ValidationError):  # the full check may find it harmless
            text = fingerprints.dumped(Order.model_validate(cleaned))
    return Content(order_id, text, fingerprints.of(text), unknown)


def _listed(places: Iterable[str]) -> tuple[str, ...]:
    found = list(places)
    more = len(found) - _MOST_IGNORED
    return (*found[:_MOST_IGNORED], *([f"and {more} more"] if more > 0 else []))


def _dumped(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


# -- kept fields


def _clean_part(
    raw: Mapping[Any, Any], model: type[BaseModel], place: str, refused: dict[str, str], ignored: list[str]
) -> dict[str, Any]:
    """Returns the fields that the model has. Adds the places of those that must be refused to `refused`, and
    of the other unknown ones to `ignored`."""
    displayed = _DISPLAY_ONLY.get(model, frozenset())
    known = {
        name: _cut(raw[name])
        if name in displayed
        else _clean_field(raw[name], name, _at(place, name), refused, ignored)
        for name in model.model_fields
        if name in raw
    }
    others = ((key, raw[key]) for key in raw if key not in model.model_fields and key != HAS_REMOVED)
    if unknown := dict(itertools.islice(others, _MAX_ENTRIES)):
        refused |= dict(itertools.islice(_card_data(unknown, place, model in _PAYMENTS, 1), _MAX_ENTRIES))
        meant = misnamed(model, {**{name: raw[name] for name in known}, **unknown})
        refused |= {
            _at(place, key): f"{MISNAMED}{name}]"
            for key, name in meant.items()
            if _at(place, key) not in refused
        }
        ignored += [_at(place, key) for key, value in unknown.items() if not is_empty(value)]
    return known


def _other_currencies(raw: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yields fields of the order's parts with another currency than the order's: it is unclear which the
    customer agreed to."""
    parts, mine = [(name, raw.get(name)) for name in _PARTS], str(raw.get("currency", "")).strip().upper()
    if isinstance(items := raw.get("items"), list | tuple):
        parts += [(f"items[{i}]", item) for i, item in enumerate(items[:_MAX_ENTRIES])]
    for place, part in parts:
        for key in ("currency", "currency_code"):
            named = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(named, str) and named.strip().upper() not in ("", mine):
                yield f"{place}.{key}", OTHER_CURRENCY


def _clean_field(value: Any, name: str, place: str, refused: dict[str, str], ignored: list[str]) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if name in _PARTS and isinstance(value, Mapping):
        return _clean_part(value, _PARTS[name], place, refused, ignored)
    if name in _LISTS and isinstance(value, list | tuple):
        given = (
            each.model_dump(mode="json") if isinstance(each, BaseModel) else each
            for each in value[:_MAX_ENTRIES]
        )
        parts = [
            _clean_part(each, _LISTS[name], f"{place}[{i}]", refused, ignored)
            if isinstance(each, Mapping)
            else _clean_loose(each, 2)
            for i, each in enumerate(given)
        ]
        return parts + ([TOO_MANY] if len(value) > _MAX_ENTRIES else [])
    if name in _FREE and isinstance(value, Mapping):
        return _clean_loose(value, 1, cutting=True)
    if isinstance(value, Mapping | list | tuple):
        return _clean_loose(value, 1)
    return _clean_scalar(value, name)


def _cut(value: Any) -> Any:
    """Cleans a text that is only displayed. Masks card numbers first: a cut could leave a part of one."""
    if isinstance(value, str) and len(value) > _MAX_TEXT and not _CONTROL.search(value):
        shorter = card_numbers.masked(value[: 3 * _MAX_TEXT])
        return shorter[: _MAX_TEXT - len(_DOTS)].rstrip() + _DOTS
    return _clean_loose(value, 1) if isinstance(value, Mapping | list | tuple) else _clean_scalar(value, "")


def _clean_loose(value: Any, depth: int, *, cutting: bool = False) -> Any:
    """Cleans a value of any shape of possible card data: a misplaced one, which is kept for display, or an
    object with any content, of which long texts are cut (`cutting`)."""
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, Mapping):
        cut = value.get(_MORE) == TOO_MANY  # content that was taken in already
        first = itertools.islice(value.items(), _MAX_ENTRIES + 2)
        given = [(key, each) for key, each in first if not (cut and key == _MORE)]
        cleaned: dict[str, Any] = {}
        for key, each in given[:_MAX_ENTRIES]:
            name = _clean_key(_whole_letters(key) if cutting else key)
            # A key that was a card number counts as a card field's name.
            mark = _mark_of(key, each, True) or _mark_of(name, each, True)
            cleaned[name] = mark or _clean_loose(each, depth + 1, cutting=cutting)
        return cleaned | ({_MORE: TOO_MANY} if cut or len(given) > _MAX_ENTRIES else {})
    if isinstance(value, list | tuple):
        return [_clean_loose(each, depth + 1, cutting=cutting) for each in value[:_MAX_ENTRIES]] + (
            [TOO_MANY] if len(value) > _MAX_ENTRIES else []
        )
    return _cut(_whole_letters(value)) if cutting else _clean_scalar(value, "")


def _whole_letters(value: Any) -> Any:
    """Replaces halves of letters, which JSON can have and UTF-8 cannot: a text that was cut within an
    emoji."""
    return _HALF.sub("\ufffd", value) if isinstance(value, str) else value


def _clean_key(key: object) -> str:
    return str(_clean_scalar(key if isinstance(key, str) else str(key), ""))[:100]


def _clean_scalar(value: Any, name: str) -> Any:
    """Cleans a scalar. `name`: of the field; "" for a field that an order does not have."""
    if value is None or isinstance(value, bool):
        return value
    # Also NaN. The database would write out every digit.
    if isinstance(value, float) and not abs(value) < _LARGEST_FLOAT:
        value = str(value)
    if isinstance(value, int) and abs(value) >= 10**30:
        return TOO_LARGE
    if not isinstance(value, int | float | Decimal | str):
        return NOT_JSON
    text = _written(value)
    if len(text) > _MAX_TEXT:
        return TOO_LONG
    if isinstance(value, str) and _CONTROL.search(text):
        return CONTROL
    plain = str(value) if isinstance(value, Decimal) else value
    if name in _IDS:
        return plain
    if name in NUMBERS:
        # Amounts have at most twelve digits before the point. Those after it cannot be a card number's.
        number = _INTEGER_PART.fullmatch(text)
        return CARD_REMOVED if card_numbers.has_card_number(number[1] if number else text) else plain
    if name in _ABOUT_CARDS:
        return CARD_REMOVED if _is_card(name, text) else plain
    masked = card_numbers.masked(text)
    return plain if masked == text else masked


def _written(value: float | Decimal | str) -> str:
    """Writes a number as digits: spreadsheets produce 4.1e15."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else repr(value)
    if not isinstance(value, Decimal) or not value.is_finite() or abs(value.adjusted()) >= 40:
        return str(value)
    return f"{value:.0f}" if value == value.to_integral_value() else str(value)


# -- card data in fields that an order does not have


def _card_data(
    unknown: Mapping[Any, Any], place: str, in_payment: bool, depth: int
) -> Iterator[tuple[str, str]]:
    """Yields the places of card data fields that are not empty, with their marks."""
    for key, value in itertools.islice(unknown.items(), _MAX_ENTRIES):
        here = _at(place, key)
        if mark := _mark_of(key, value, in_payment):
            yield here, mark
        elif depth < MAX_DEPTH and isinstance(value, Mapping | list | tuple):
            inner = in_payment or _PAYMENT_FIELD.fullmatch(_plain(key)) is not None
            listed = [value] if isinstance(value, Mapping) else value[:_MAX_ENTRIES]
            for i, each in enumerate(listed):
                at = here if isinstance(value, Mapping) else f"{here}[{i}]"
                if isinstance(each, Mapping):
                    yield from _card_data(each, at, inner, depth + 1)


def _mark_of(key: object, value: Any, in_payment: bool) -> str | None:
    """Returns the mark that replaces the field's value; None if the field has no card data."""
    name = _plain(key)
    if _CODE_FIELD.fullmatch(name) and not _CODE_RESULT.fullmatch(name):
        has_digit = any(character.isdecimal() for text in _texts(value) for character in text)
        return CODE_REMOVED if has_digit else None
    if _CARD_FIELD.fullmatch(name):
        found = any(sum(map(str.isdecimal, text)) >= card_numbers.SHORTEST for text in _texts(value))
    else:
        may_be = in_payment and name in _CARD_FIELD_IN_PAYMENT
        found = may_be and any(map(card_numbers.is_card_number, _texts(value)))
    return CARD_REMOVED if found else None


def _is_card(name: str, text: str) -> bool:
    given_by_others = name in {"token", "reference"}  # one in ten ids has a valid check digit
    find = card_numbers.is_card_number_as_token if given_by_others else card_numbers.is_card_number
    return find(text)


def _plain(key: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(key)[:100].lower())


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Yields the texts in the value, at any depth."""
    if isinstance(value, Mapping | list | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        if depth < MAX_DEPTH:
            yield from (
                text for each in itertools.islice(inner, _MAX_ENTRIES) for text in _texts(each, depth + 1)
            )
    elif isinstance(value, str) and value in _MARKS:
        return  # content that was taken in already
    elif isinstance(value, str | float | Decimal) or (type(value) is int and abs(value) < 10**30):
        yield _written(value)[:_MAX_TEXT]


def _at(place: str, key: object) -> str:
    at = f"{place}.{_clean_key(key)}" if place else _clean_key(key)
    return at if len(at) <= _MAX_PLACE else f"{at[: _MAX_PLACE - 3]}..."
