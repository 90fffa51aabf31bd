"""What is observed of an order, of its money and of the stock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from shop.payments.gateway import PaymentStatus
from shop.payments.sandbox.records import PaymentRecord


@dataclass(frozen=True)
class Money:
    """One order's payments as the gateway's ledger has them."""

    charges: int
    """How many payments were charged and are not wholly given back."""
    charged: Decimal
    refunded: Decimal

    @property
    def kept(self) -> Decimal:
        return self.charged - self.refunded

    @classmethod
    def of(cls, payments: tuple[PaymentRecord, ...]) -> Money:
        paid = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
        charged, refunded = sum(payment.amount for payment in paid), sum(payment.refunded for payment in paid)
        return cls(
            sum(payment.refunded < payment.amount for payment in paid),
            Decimal(charged) / 100,
            Decimal(refunded) / 100,
        )


class Seen(NamedTuple):
    """One order's rows in all tables, in the sequence of the query."""

    id: str
    fence: int
    outcome: str | None
    failing_step: str | None
    failure: str | None
    total_text: str
    charged: str
    refunded: str
    at_risk: str
    lease_id: str | None
    lease_lives: bool | None
    cancelled: bool
    steps: dict[str, Any] | None
    """Step to its row's version, status, whether its undo is due, how that ended, and with which error."""
    reservation: str | None
    reserved: dict[str, int] | None
    parcel: str | None
    returned: bool
    shipped: dict[str, int] | None
    mails_or_none: list[str] | None
    in_review: str | None
    resolution: str | None

    @property
    def total(self) -> Decimal:
        return Decimal(self.total_text)

    @property
    def journal(self) -> dict[str, Any]:
        return self.steps or {}

    @property
    def mails(self) -> list[str]:
        return self.mails_or_none or []

    @property
    def due(self) -> bool:
        """Whether anything is still to be undone; of a completed order that has no meaning."""
        return self.outcome != "completed" and any(due for _, _, due, _, _ in self.journal.values())

    @property
    def refund_error(self) -> str | None:
        return self.journal["process_payment"][4] if "process_payment" in self.journal else None

    @property
    def written(self) -> Any:
        """What only its holder may write; its outcome only from none to one."""
        versions = {step: entry[0] for step, entry in self.journal.items()}
        return versions, self.failure, self.parcel, self.returned, self.reservation, self.mails, self.outcome

    def undo(self, step: str) -> str | None:
        return self.journal[step][3] if step in self.journal else None

    def gave_back(self, now: Seen) -> bool:
        """Whether all that happened to it is that its reservation ran out."""
        changed = {step for step, entry in now.journal.items() if self.journal.get(step) != entry}
        return self.reservation == "held" and now.reservation == "released" and changed <= {"check_inventory"}

    def opens_again_as(self, now: Seen) -> bool:
        """A completed order is cancelled; one that needs attention is tried again."""
        if self.outcome is None or now.outcome is not None or self.written[:-1] != now.written[:-1]:
            return False
        return (self.outcome == "completed" and now.cancelled) or self.outcome == "needs_attention"

    def difference(self, now: Seen) -> str:
        pairs = zip(self._fields, self, now, strict=True)
        return ", ".join(f"{field}: {old!r} -> {new!r}" for field, old, new in pairs if old != new)


@dataclass(frozen=True)
class Stock:
    """One product's pieces, and what shipments and reservations say of them."""

    product: str
    received: int
    on_hand: int
    reserved: int
    shipped: int
    held: int

    @classmethod
    def of(cls, product: str, received: int, on_hand: int, reserved: int, orders: Iterable[Seen]) -> Stock:
        shipped = held = 0
        for order in orders:
            if order.shipped is not None and not order.returned:
                shipped += order.shipped.get(product, 0)
            if order.reservation == "held":
                held += (order.reserved or {}).get(product, 0)
        return cls(product, received, on_hand, reserved, shipped, held)

    def faults(self) -> Iterator[str]:
        if not 0 <= self.reserved <= self.on_hand:
            yield f"{self.reserved} of {self.on_hand} pieces are reserved"
        if self.on_hand + self.shipped != self.received:
            yield f"{self.on_hand} on hand and {self.shipped} shipped of {self.received}"
        if self.reserved != self.held:
            yield f"{self.reserved} reserved, and {self.held} held by orders"
