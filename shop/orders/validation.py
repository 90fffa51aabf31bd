"""Validates orders: finds all problems at once, each with its place.

Handles data of any shape: checks what can be read and reports what cannot. Problems go to task runs, events
and logs, so they name field and rule and never repeat what a customer typed. They show amounts, piece counts,
currencies and product ids, and of other values only the kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from saga.yielding import yielding
from shop.orders.errors import OrderRejected, Problem
from shop.orders.intake_content import HAS_REMOVED, MISNAMED, NUMBERS, REMOVED
from shop.orders.order import Item, Order
from shop.settings import Settings
from shop.text.domains import ascii_mail_domain
from shop.values import countries, money

PAYMENT_METHODS = ("credit_card", "debit_card", "paypal", "apple_pay", "google_pay")
_ROUNDING_UNITS = 1
"""How far the total may be below the sum of its parts, in the currency's smallest unit, for shops that
round. It is never above."""
_MISNAMED = "a field of another name"
_MAX_TEXT = 200
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,59}")
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*")
_KEY = re.compile(r"[A-Za-z_~][A-Za-z0-9_-]{0,39}(\[[0-9]+\])*")
_EMAIL = re.compile(r"[^@\s<>,;:\"()\[\]\\]{1,64}@[^@\s<>,;:\"()\[\]\\.]+(\.[^@\s<>,;:\"()\[\]\\.]+)+")
_FIELDS = {
    name: TypeAdapter(field.rebuild_annotation())
    for name, field in Order.model_fields.items()
    if name != "items"
}
_ITEM = TypeAdapter(Item)

Readable = Mapping[str, Any]
"""The fields of an order that could be read; `items` maps positions to `Item`."""


class Catalogue(Protocol):
    async def known(self, product_ids: set[str]) -> set[str]:
        """Returns those of the ids that are products."""
        ...


async def validate(
    contents: Sequence[Mapping[str, Any]], catalogue: Catalogue, limits: Settings
) -> list[Order | OrderRejected]:
    """Returns for each order, in the same sequence, the order or its problems."""
    read = [_read(content) async for content in yielding(contents)]
    asked = {
        item.product_id
        for fields, _, _ in read
        for item in fields.get("items", {}).values()
        if 0 < len(item.product_id) <= _MAX_TEXT
    }
    known = await catalogue.known(asked)
    verdicts: list[Order | OrderRejected] = []
    async for fields, unreadable, order in yielding(read):
        problems = [*unreadable, *_problems(fields, known, limits)]
        verdicts.append(order if order is not None and not problems else OrderRejected(problems))
    return verdicts


def _problems(order: Readable, known: set[str], limits: Settings) -> list[Problem]:
    return [
        *_items(order, known, limits),
        *_text(order, "customer_id"),
        *_text(order, "customer_name"),
        *_email(order),
        *_currency(order),
        *_amounts(order, limits),
        *_method(order),
        *_address(order),
    ]


def _read(content: Mapping[str, Any]) -> tuple[Readable, list[Problem], Order | None]:
    """Reads what can be read and reports the rest."""
    problems = _removed(content, "") if HAS_REMOVED in content else []
    named = {problem.expected for problem in problems if problem.given == _MISNAMED}
    try:
        order = Order.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        found = [
            (e, _problem(e))
            for e in errors
            if not (isinstance(e["input"], str) and e["input"].startswith(REMOVED))
        ]
        problems += [problem for e, problem in found if e["type"] != "missing" or problem.place not in named]
    else:
        return {**vars(order), "items": dict(enumerate(order.items))}, problems, order
    fields: dict[str, Any] = {}
    for name, adapter in _FIELDS.items():
        try:
            fields[name] = (
                adapter.validate_python(_stripped(content[name])) if name in content else _default(name)
            )
        except (ValidationError, KeyError):
            continue  # reported above
    items = content.get("items")
    if isinstance(items, list):
        fields["items"] = {}
        for i, item in enumerate(items):
            try:
                fields["items"][i] = _ITEM.validate_python(item)
            except ValidationError:
                fields["incomplete"] = True  # reported above; no total can be calculated
    return fields, problems, None


def _stripped(value: Any) -> Any:
    """Strips a value as `Order` does."""
    return value.strip() if isinstance(value, str) else value


def _default(name: str) -> Any:
    field = Order.model_fields[name]
    if field.is_required():
        raise KeyError(name)
    return field.default


def _text(order: Readable, name: str) -> list[Problem]:
    value = order.get(name)
    if value is not None and not value:
        return [Problem(name, "nothing", "text that is not empty")]
    if value is not None and len(value) > _MAX_TEXT:
        return [Problem(name, f"{len(value)} characters", f"at most {_MAX_TEXT} characters")]
    return []


def _email(order: Readable) -> list[Problem]:
    email = order.get("customer_email")
    if not email:
        return []
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        return [Problem("customer_email", _kind(email), "an e-mail address such as name@example.com")]
    try:
        ascii_mail_domain(email)
    except UnicodeError:
        return [Problem("customer_email", _kind(email), "an e-mail address whose domain can exist")]
    return []


def _items(order: Readable, known: set[str], limits: Settings) -> list[Problem]:
    if "items" not in order:
        return []
    items: dict[int, Item] = order["items"]
    if not items and not order.get("incomplete"):
        return [Problem("items", "none", "at least one item")]
    if len(items) > limits.orders.max_items:
        return [Problem("items", f"{len(items)} items", f"at most {limits.orders.max_items} items")]
    return [
        problem for i, item in items.items() for problem in _item(f"items[{i}]", item, order, known, limits)
    ]


def _item(place: str, item: Item, order: Readable, known: set[str], limits: Settings) -> list[Problem]:
    problems = []
    if not item.product_id:
        problems.append(Problem(f"{place}.product_id", "nothing", "a product's id"))
    elif item.product_id not in known:
        problems.append(
            Problem(f"{place}.product_id", _product(item.product_id), "a product in the catalogue")
        )
    if not 0 < item.quantity <= limits.orders.max_quantity:
        problems.append(
            Problem(
                f"{place}.quantity",
                _shown(item.quantity),
                f"a whole number from 1 to {limits.orders.max_quantity}",
            )
        )
    if item.price <= 0:
        problems.append(Problem(f"{place}.price", _shown(item.price), "more than 0"))
    return problems + _precision(f"{place}.price", item.price, order)


def _currency(order: Readable) -> list[Problem]:
    currency = order.get("currency")
    if currency is None or money.is_currency(currency):  # a missing currency is already reported
        return []
    return [
        Problem(
            "currency",
            currency if _CURRENCY.fullmatch(currency) else _kind(currency),
            "an ISO 4217 code such as USD",
        )
    ]


def _precision(place: str, amount: Decimal, order: Readable) -> list[Problem]:
    currency = order.get("currency", "")
    if not money.is_currency(currency) or money.fits(amount, currency):
        return []
    return [Problem(place, _shown(amount), f"at most {money.decimals(currency)} decimals ({currency})")]


def _amounts(order: Readable, limits: Settings) -> list[Problem]:
    problems = []
    for name in ("tax_amount", "shipping_amount", "discount_amount"):
        if (amount := order.get(name)) is not None:
            if amount < 0:
                problems.append(Problem(name, _shown(amount), "0 or more"))
            problems += _precision(name, amount, order)
    if (total := order.get("total_amount")) is None:
        return problems
    problems += _precision("total_amount", total, order)
    currency = order.get("currency", "")
    most, least_unit = limits.orders.max_total(currency), money.from_minor(_ROUNDING_UNITS, currency)
    if not 0 < total <= most:
        problems.append(Problem("total_amount", _shown(total), f"more than 0, at most {most}"))
        return problems
    calculated = _calculated(order)
    if calculated is not None and not calculated - least_unit <= total <= calculated:
        expected = f"{calculated} (items + tax + shipping - discount)"
        problems.append(Problem("total_amount", _shown(total), expected))
    return problems


def _calculated(order: Readable) -> Decimal | None:
    """Returns the sum of the parts; None if one is missing, which is reported instead."""
    parts: list[Decimal | None] = [
        order.get(name) for name in ("tax_amount", "shipping_amount", "discount_amount")
    ]
    tax, shipping, discount = parts
    items: dict[int, Item] = order.get("items", {})
    if not items or order.get("incomplete") or tax is None or shipping is None or discount is None:
        return None
    return (
        sum((item.price * item.quantity for item in items.values()), Decimal(0)) + tax + shipping - discount
    )


def _method(order: Readable) -> list[Problem]:
    payment = order.get("payment_info")
    if payment is None:
        return []
    problems = []
    if payment.method not in PAYMENT_METHODS:
        problems.append(
            Problem("payment_info.method", _kind(payment.method), "one of " + ", ".join(PAYMENT_METHODS))
        )
    if (
        payment.card_last4 is not None
        and not payment.card_last4.startswith(REMOVED)
        and not re.fullmatch(r"[0-9]{4}", payment.card_last4)
    ):
        problems.append(
            Problem(
                "payment_info.card_last4",
                f"{len(payment.card_last4)} characters",
                "the card's last four digits",
            )
        )
    if payment.token is not None and not 0 < len(payment.token) <= 255:
        problems.append(
            Problem(
                "payment_info.token",
                f"{len(payment.token)} characters",
                "the gateway's token, 1 to 255 characters",
            )
        )
    return problems


def _address(order: Readable) -> list[Problem]:
    address = order.get("shipping_info")
    if address is None:
        return []
    problems = []
    given = vars(address)
    for name in ("address", "city"):
        if not given[name]:
            problems.append(Problem(f"shipping_info.{name}", "nothing", "text that is not empty"))
    for name in ("name", "address", "address2", "city", "state", "zip", "phone"):
        if len(given[name] or "") > _MAX_TEXT:
            problems.append(
                Problem(f"shipping_info.{name}", f"{len(given[name])} characters", f"at most {_MAX_TEXT}")
            )
    if not countries.is_country(address.country):
        meant = countries.meant(address.country)
        expected = "an ISO 3166 code of two letters" + (f": {meant}" if meant else "")
        problems.append(Problem("shipping_info.country", _kind(address.country), expected))
    return problems


def _removed(value: Any, place: str) -> list[Problem]:
    """Reports what intake removed; see `shop.orders.intake_content`."""
    if isinstance(value, str) and value.startswith(MISNAMED) and place:
        return [Problem(_path(place), _MISNAMED, _sibling(place, value.removeprefix(MISNAMED).rstrip("]")))]
    if isinstance(value, str) and value.startswith(REMOVED):
        return [
            Problem(
                _path(place) or "order",
                "(removed)",
                f"nothing of the kind: it {value.removeprefix(REMOVED).rstrip(']')}",
            )
        ]
    if isinstance(value, Mapping):
        return [
            p for k, v in value.items() for p in (*_removed(k, place), *_removed(v, _below(place, str(k))))
        ]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in _removed(v, f"{place}[{i}]")]
    return []


def _path(place: str) -> str:
    """Returns the field's path. Hides parts that do not look like a field's name: they may be any text."""
    return (
        ".".join(part if _KEY.fullmatch(part) else "(a field)" for part in place.split(".")) if place else ""
    )


def _below(place: str, key: str) -> str:
    """Returns the place of a field in content; places of fields that are not kept stand as they are."""
    return "" if key == HAS_REMOVED else f"{place}.{key}" if place else key


def _sibling(place: str, name: str) -> str:
    return f"{parent}.{name}" if (parent := place.rpartition(".")[0]) else name


def _problem(error: ErrorDetails) -> Problem:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "missing":
        return Problem(place, "nothing", "a value")
    given = error["input"]
    is_number = error["loc"][-1] in NUMBERS and (
        _NUMBER.fullmatch(given) if isinstance(given, str) else isinstance(given, int | float | Decimal)
    )
    expected = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return Problem(place, _shown(given) if is_number else _kind(given), expected)


def _shown(number: object) -> str:
    """Shows an amount or a number of pieces."""
    text = str(number)
    return text if len(text) <= 60 else text[:57] + "..."


def _product(product_id: str) -> str:
    """Shows a product id if it looks like one."""
    return repr(product_id) if _PRODUCT_ID.fullmatch(product_id) else _kind(product_id)


def _kind(value: object) -> str:
    """Describes the kind of value, without the value."""
    match value:
        case None | "":
            return "nothing"
        case bool():
            return str(value)
        case str():
            return f"text of {len(value)} character{'s' if len(value) > 1 else ''}"
        case int() | float() | Decimal():
            return "a number"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case _:
            return type(value).__name__
