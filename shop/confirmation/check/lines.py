"""The order's lines by what their item is called, for checks that meet names."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from shop.confirmation.check.normal import normal
from shop.confirmation.facts import ItemFact
from shop.money import round_to


class Lines:
    """Lines of the same name belong together: "1 x Pen, 2 x Pen" are 3 pens."""

    def __init__(self, items: Sequence[ItemFact]) -> None:
        self._lines: dict[str, list[ItemFact]] = {}
        for item in items:
            self._lines.setdefault(normal(item.name), []).append(item)
        self.pieces = sum(item.quantity for item in items)
        self.count = len(items)

    def names(self) -> list[str]:
        """Each name once, in the order's sequence."""
        return list(self._lines)

    def quantities(self, name: str) -> list[int]:
        """Of each line."""
        return [item.quantity for item in self._lines[name]]

    def prices(self, name: str) -> set[Decimal]:
        """Of one piece, exactly and as shown."""
        return {price for item in self._lines[name] for price in (item.price, round_to(item.price, item.currency))}

    def totals(self, name: str) -> set[Decimal]:
        """Of each line, and of all lines of that name."""
        lines = self._lines[name]
        sums = [item.price * item.quantity for item in lines]
        return {shown for amount in (*sums, sum(sums, Decimal(0))) for shown in (amount, round_to(amount, lines[0].currency))}
