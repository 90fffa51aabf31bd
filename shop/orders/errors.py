"""Errors of orders: invalid, impossible to store, or in conflict with a known order; and how their problems
describe values without repeating what a customer typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from saga.errors import StepError

MAX_PROBLEMS = 25
"""Limits the number of problems listed per order: each is stored several times, with the order, its steps
and the customer notice."""


_MAX_CHARACTERS = 150
"""Limits each part of a problem, in characters."""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of an order."""

    place: str
    """The path into the order, such as `items[2].quantity`."""
    given: str
    """The value or its description, shortened; never card data."""
    expected: str
    """What a valid order has there."""

    def __str__(self) -> str:
        return f"{self.place}: got {self.given}, expected {self.expected}"

    def shortened(self) -> Problem:
        """Returns the problem with a limited length, whatever the order contained."""
        return Problem(_cut(self.place), _cut(self.given), _cut(self.expected))


class OrderRejected(StepError):
    """The order is not valid. Carries up to `MAX_PROBLEMS` problems and the number of further ones."""

    code = "rejected"
    refusal = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problem.shortened() for problem in problems[:MAX_PROBLEMS])
        self.more = len(problems) - len(self.problems)
        super().__init__("; ".join(self.reasons()))

    def details(self) -> dict[str, Any]:
        listed = {"problems": [asdict(problem) for problem in self.problems]}
        return {**super().details(), **listed, **({"more_problems": self.more} if self.more else {})}

    def reasons(self) -> list[str]:
        more = [f"and {self.more} more problem{'s' if self.more > 1 else ''}"] if self.more else []
        return [*map(str, self.problems), *more]


class UnusableOrder(OrderRejected):
    """The order has no usable id, so nothing can be stored; the caller gets the error instead."""

    code = "unusable"


class OrderConflict(StepError):
    """An order with this id and different content is already known."""

    code = "conflict"
    refusal = True

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        super().__init__(
            f"order {order_id!r} is already known with different content, "
            "and submitting it again cannot change it: give the new order another id"
        )


_PRODUCT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,59}")


def shown(number: object) -> str:
    """Shows an amount or a number of pieces."""
    text = str(number)
    return text if len(text) <= 60 else text[:57] + "..."


def product(product_id: str) -> str:
    """Shows a product id if it looks like one."""
    return repr(product_id) if _PRODUCT_ID.fullmatch(product_id) else kind(product_id)


def kind(value: object) -> str:
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
