"""Errors of orders: an order that is not valid, cannot be stored, or contradicts a known one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saga.errors import StepError

MAX_PROBLEMS = 25
"""Problems of one order that are listed: each is written several times, to the order, its steps and the notice of its end."""


_MAX_CHARACTERS = 150
"""Of each part of a problem."""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an order."""

    place: str
    """Where: a path into the order, such as `items[2].quantity`."""
    given: str
    """What was there, shortened; never card data."""
    expected: str
    """What should have been there."""

    def __str__(self) -> str:
        return f"{self.place}: got {self.given}, expected {self.expected}"

    def shortened(self) -> Problem:
        """The same, of a length that does not depend on what was sent."""
        return Problem(_cut(self.place), _cut(self.given), _cut(self.expected))


class OrderRejected(StepError):
    """The order is not valid; carries every problem, not just the first, up to `MAX_PROBLEMS`, and how many more there are."""

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
    """There is no usable order id, so nothing can be stored: the caller is told instead."""

    code = "unusable"


class OrderConflict(StepError):
    """An order with this id, but with other content, is already known."""

    code = "conflict"
    refusal = True

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        super().__init__(
            f"order {order_id!r} is already known with different content; an order cannot be changed by sending it again: "
            "give the new one an id of its own"
        )
