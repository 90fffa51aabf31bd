"""What a mapping of another system's order returns, and what all mappings share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shop.orders.errors import MAX_PROBLEMS, OrderRejected, Problem
from shop.orders.formats.reading import Reading, is_whole
from shop.orders.formats.settings import Options
from shop.orders.intake_content import HAS_REMOVED, REFUSED
from shop.text.card_numbers import cut
from shop.values import money

_BRACKETS = str.maketrans("[]", "()")
_MOST_CHARACTERS = 180
"""Limits a reason that is stored with an order, in characters."""
_MOST_PROPERTIES = 30


class NotPaidYet(OrderRejected):
    """The order waits for its payment in the other system. Send it again once it is paid."""

    code = "not_paid_yet"


@dataclass(frozen=True, slots=True)
class Mapped:
    """An order of another system, as this project's JSON."""

    order: Mapping[str, Any]
    ignored: Sequence[str] = ()
    """The places of fields with a value that have no place here."""
    problems: Sequence[Problem] = ()
    """Why the order is rejected: what moves money or goods and cannot be represented."""
    waiting: str | None = None
    """Why it is not paid yet: nothing is stored until it is."""
    cancelled: str | None = None
    """Why it was cancelled there."""
    shipped_there: bool = False
    """Whether that system says that it has shipped goods of it."""
    not_to_ship: str | None = None
    """Why it must not be shipped, which is no reason to return it: deleted, or refunded in full."""

    @property
    def order_id(self) -> str:
        return str(self.order.get("id", ""))

    @property
    def reasons(self) -> tuple[Problem, ...]:
        """Everything for which the order is rejected."""
        closed = [Problem("order", self.cancelled, "an open order")] if self.cancelled else []
        return (*closed, *self.problems)

    def checked(self) -> Mapping[str, Any]:
        """Returns the order. Raises `NotPaidYet`, and `OrderRejected` with every reason."""
        if self.reasons:
            raise OrderRejected(self.reasons)
        if self.waiting:
            raise NotPaidYet([Problem("payment", self.waiting, "an order that is paid")])
        return self.order

    def to_store(self) -> Mapping[str, Any]:
        """Returns the order for intake. A rejected one carries its reasons, which validation reports: it
        ends as rejected, and somebody sees it. Of goods that have left there, the money is nothing that
        anybody here has to give back."""
        marks: dict[str, str] = {}
        for each in self.reasons[:MAX_PROBLEMS]:
            marks.setdefault(cut(each.place, 100), _mark(each))
        if not marks:
            return self.order
        kept = {name: part for name, part in self.order.items() if name != "payment_info"}
        return {**(kept if self.shipped_there else self.order), HAS_REMOVED: marks}


def _mark(problem: Problem) -> str:
    given, expected = cut(problem.given, 60), cut(problem.expected, _MOST_CHARACTERS - 70)
    return f"{REFUSED}{given.translate(_BRACKETS)}; {expected.translate(_BRACKETS)}]"


def order_total(order: Mapping[str, Any]) -> Decimal:
    """Returns the sum of an order's amounts, each counted once, as validation does."""

    def sum_of(parts: Iterable[Mapping[str, Any]], *names: str) -> Decimal:
        return sum((_amount(part, name) for part in parts for name in names), Decimal(0))

    items, shipping, fees = (order.get(name) or [] for name in ("items", "shipping_lines", "fees"))
    total = sum(
        (_amount(i, "line_total") or _amount(i, "price") * int(i.get("quantity") or 0) for i in items),
        Decimal(0),
    )
    total += (
        sum_of([order], "shipping_amount", "tip_amount") + sum_of(shipping, "amount") + sum_of(fees, "amount")
    )
    total -= sum_of([order, *items, *shipping], "discount_amount")
    if not order.get("prices_include_tax"):
        total += sum_of([order, *items, *shipping, *fees], "tax_amount")
    return total


def _amount(part: Mapping[str, Any], name: str) -> Decimal:
    return Decimal(str(part.get(name) or 0))


def settle(order: dict[str, Any], read: Reading, place: str, *, rounded: int = 0) -> None:
    """Makes the parts of the order add up to its total, or refuses it.

    `rounded`: how many of the parts the other system has rounded. A difference of that many of the
    currency's smallest units is rounding, and becomes a part of its own.
    """
    total, parts = Decimal(order["total_amount"]), order_total(order)
    unit = money.from_minor(1, str(order.get("currency") or "USD"))
    if total == parts:
        return
    if abs(total - parts) > unit * rounded:
        read.refuse(
            place, total, f"{parts} (the sum of lines, shipping, fees, tips and taxes, less discounts)"
        )
    elif total > parts:
        order.setdefault("fees", []).append({"name": "Rounding", "amount": str(total - parts)})
    else:
        order["discount_amount"] = str(_amount(order, "discount_amount") + parts - total)


def without_empty(part: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that have a value."""
    return {name: value for name, value in part.items() if value not in (None, "", [], {}, False)}


def amounts(**given: Decimal) -> dict[str, str]:
    """Returns the amounts that are not zero, as an order has them."""
    return {name: str(amount) for name, amount in given.items() if amount}


def full_name(part: Reading) -> str | None:
    """Returns the name in `first_name` and `last_name`."""
    return " ".join(each for each in (part.text("first_name"), part.text("last_name")) if each) or None


def chosen_id(ids: Mapping[str, str | None], options: Options) -> str | None:
    """Returns the one of a line's ids that is the catalogue's; else the first of the others."""
    return ids.get(options.product_id) or next(filter(None, ids.values()), None)


def address(
    part: Reading, *, street: str, state: Sequence[str], zip_code: str, country: str
) -> dict[str, str | None]:
    """Returns an address. `street`: begins the names of its two lines; the others: names of fields."""
    return without_empty(
        {
            "name": part.text("name") or full_name(part),
            "company": part.text("company"),
            "address": part.text(f"{street}1"),
            "address2": part.text(f"{street}2"),
            "city": part.text("city"),
            "state": part.text(*state),
            "zip": part.text(zip_code),
            "country": (part.text(country) or "").upper(),
            "phone": part.text("phone"),
        }
    )


def properties(pairs: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Returns short texts by name; leaves out what is not a text or number."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if (
            isinstance(name, str)
            and name.strip()
            and (isinstance(value, str | bool | Decimal) or is_whole(value))
            and str(value).strip()
        ):
            found.setdefault(cut(name.strip(), 100), cut(str(value).strip(), 500))
    return dict(list(found.items())[:_MOST_PROPERTIES])


def manual_method(name: str, known: Mapping[str, str], options: Options) -> str | None:
    """Returns how an order is paid outside of any gateway; None if this method is no such one."""
    plain = re.sub(r"\s+", " ", name.strip().lower())
    return options.manual_methods.get(plain) or known.get(plain)
