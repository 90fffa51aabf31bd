"""Counts the outcomes of a run's orders as they end, to show its progress without database queries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from shop.orders.outcomes import Outcome

_KEPT = 50


class Ended(NamedTuple):
    """An order that has just ended."""

    order_id: str
    outcome: Outcome
    failing_step: str | None
    code: str | None
    """The error code of its failure."""
    currency: str
    charged: Decimal
    refunded: Decimal
    at_risk: Decimal


@dataclass
class OutcomeCounter:
    """The outcomes since the counter was created. Its size does not depend on the number of orders."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    money: dict[str, list[Decimal]] = field(default_factory=lambda: defaultdict(lambda: [Decimal(0)] * 3))
    """By currency: charged, refunded, at risk."""
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(step, code) of the failures."""
    others: list[Ended] = field(default_factory=list)
    """The first few orders that did not complete, those that need a person first."""

    @property
    def ended(self) -> int:
        return self.outcomes.total()

    def add(self, orders: Sequence[Ended]) -> None:
        """Counts each order once."""
        self.outcomes.update([order.outcome for order in orders])
        for order in orders:
            if order.charged or order.at_risk:
                charged, refunded, at_risk = self.money[order.currency]
                self.money[order.currency] = [
                    charged + order.charged,
                    refunded + order.refunded,
                    at_risk + order.at_risk,
                ]
            if order.outcome is not Outcome.COMPLETED:
                self._keep(order)

    def _keep(self, order: Ended) -> None:
        self.steps[order.failing_step or "", order.code or ""] += 1
        if order.outcome is Outcome.NEEDS_ATTENTION:
            self.others.insert(0, order)
            del self.others[_KEPT:]
        elif len(self.others) < _KEPT:
            self.others.append(order)


_counting: ContextVar[OutcomeCounter | None] = ContextVar("tally", default=None)


@contextmanager
def counting() -> Iterator[OutcomeCounter]:
    """Counts the orders that end in this context and in the tasks that are started in it."""
    outcome_counter = OutcomeCounter()
    token = _counting.set(outcome_counter)
    try:
        yield outcome_counter
    finally:
        _counting.reset(token)


def current() -> OutcomeCounter | None:
    """Returns the counter of this context, or None."""
    return _counting.get()
