"""What people settled of an order's money: gave back outside the gateway, or wrote off.

The sums are in the notes of the payment step, because the result of its compensation is replaced by the next
compensation: a bank may return a refund, or a transfer may come, after a person has settled the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from saga.instance import Entry

NOTE = "settled"
"""The note with the sums. Absent: nothing was settled."""
_REFUNDED_BY_HAND, _WRITTEN_OFF = "refunded_by_hand", "written_off"
"""Fields of the result of a compensation that a person settled, with the amount of that decision."""
_GATEWAY, _ELSEWHERE, _BY_HAND = "gateway_amount", "elsewhere_amount", "by_hand"
_UNCOLLECTED = "uncollected_amount"
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Settled:
    """The sums of all decisions about the money of an order's current try."""

    gateway: Decimal = _NOTHING
    """Of what the gateway has charged. It rightly keeps this, and must not refund it."""
    elsewhere: Decimal = _NOTHING
    """Of what others have taken, or were to collect."""
    by_hand: Decimal = _NOTHING
    """The part of both that was given back; the rest was written off."""

    uncollected: Decimal = _NOTHING
    """The part of `elsewhere` that was written off before it came. If it comes after all, it is at risk."""

    @property
    def received(self) -> Decimal:
        """The part of `elsewhere` that had come."""
        return self.elsewhere - self.uncollected

    def plus(
        self, *, gateway: Decimal, elsewhere: Decimal, by_hand: Decimal, uncollected: Decimal
    ) -> Settled:
        return Settled(
            self.gateway + gateway,
            self.elsewhere + elsewhere,
            self.by_hand + by_hand,
            self.uncollected + uncollected,
        )

    @property
    def notes(self) -> dict[str, dict[str, str]]:
        sums = {
            _GATEWAY: self.gateway,
            _ELSEWHERE: self.elsewhere,
            _BY_HAND: self.by_hand,
            _UNCOLLECTED: self.uncollected,
        }
        return {NOTE: {name: str(amount) for name, amount in sums.items()}}


def settled_in(entry: Entry | None) -> Settled | None:
    """Returns what people settled, according to the journal's entry of the payment step; None if nobody has
    decided about the money."""
    return None if entry is None else read_settled(entry.notes, entry.undo_result)


def read_settled(notes: Mapping[str, Any], undo_result: Mapping[str, Any] | None) -> Settled | None:
    """Returns the same for the columns of that entry."""
    if (sums := notes.get(NOTE)) is not None:
        names = (_GATEWAY, _ELSEWHERE, _BY_HAND, _UNCOLLECTED)
        return Settled(*(Decimal(sums.get(name, 0)) for name in names))
    decided = undo_result or {}
    if not decided.keys() & {_REFUNDED_BY_HAND, _WRITTEN_OFF}:
        return None
    # Settled before the notes had the sums.
    by_hand, given_up = (Decimal(decided.get(name, 0)) for name in (_REFUNDED_BY_HAND, _WRITTEN_OFF))
    elsewhere = min(by_hand + given_up, Decimal(decided.get("amount_elsewhere", 0)))
    return Settled(by_hand + given_up - elsewhere, elsewhere, by_hand)


GATEWAY_SETTLED = f"""(CASE WHEN s.notes ? '{NOTE}' THEN CAST(s.notes -> '{NOTE}' ->> '{_GATEWAY}' AS numeric)
    ELSE greatest(coalesce(CAST(s.undo_result ->> '{_REFUNDED_BY_HAND}' AS numeric), 0)
        + coalesce(CAST(s.undo_result ->> '{_WRITTEN_OFF}' AS numeric), 0) - o.amount_elsewhere, 0) END)"""
"""SQL: `Settled.gateway` of the order `o` with the payment step `s`, which may be missing."""
UNCOLLECTED = f"coalesce(CAST(s.notes -> '{NOTE}' ->> '{_UNCOLLECTED}' AS numeric), 0)"
"""SQL: `Settled.uncollected` of the payment step `s`, which may be missing."""
GATEWAY_AT_RISK = f"""(o.amount_at_risk - greatest(o.amount_elsewhere
    - coalesce(CAST(s.notes -> '{NOTE}' ->> '{_ELSEWHERE}' AS numeric), 0), 0))"""
"""SQL: the part of the amount at risk that the gateway has, of the same."""
