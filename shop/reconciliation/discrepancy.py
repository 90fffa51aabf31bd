"""Discrepancies that reconciliation can find, and the report of those that it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class Kind(StrEnum):
    """The ways in which the two sides can differ."""

    CHARGED_WITHOUT_ORDER = "charged_without_order"
    """The gateway keeps money for an order that does not exist here."""
    CHARGED_NOT_COMPLETED = "charged_not_completed"
    """The order ended uncompleted and the gateway keeps money for it. Repair: a refund."""
    NOT_CHARGED = "not_charged"
    """Our record has a charge that the gateway does not have."""
    CHARGED_MORE_THAN_ONCE = "charged_more_than_once"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    REFUND_UNKNOWN_TO_GATEWAY = "refund_unknown_to_gateway"
    """Our record has more refunded than the gateway has."""
    REFUND_UNKNOWN_TO_US = "refund_unknown_to_us"
    """The gateway has more refunded than our record. Repair, if nothing is left to refund: our record is
    corrected."""
    UNREADABLE = "unreadable"
    """The gateway's data about the order's payments is unreadable."""
    LEFT_UNCONFIRMED = "left_unconfirmed"
    """A payment of an ended order was created but never confirmed, and could still be. Repair: it is
    cancelled."""
    STOCK_ON_HAND = "stock_on_hand"
    """On hand + shipped differs from received."""
    STOCK_RECEIVED = "stock_received"
    """Received differs from the sum of the recorded deliveries."""
    STOCK_RESERVED = "stock_reserved"
    """Reserved differs from the sum of the held reservations."""
    RESERVATION_OF_ENDED_ORDER = "reservation_of_ended_order"
    RESERVATION_WITHOUT_ORDER = "reservation_without_order"
    INVENTORY_SERVICE_SILENT = "inventory_service_silent"
    """An inventory service that has stock of orders does not report it."""
    SHIPMENT_WITHOUT_ORDER = "shipment_without_order"
    SHIPMENT_OF_UNCOMPLETED_ORDER = "shipment_of_uncompleted_order"
    COMPLETED_WITHOUT_SHIPMENT = "completed_without_shipment"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One difference between our record and the other side."""

    kind: Kind
    ours: str
    """What our record has."""
    theirs: str
    """What the gateway has; for stock, what its movements add up to."""
    order_id: str | None = None
    product_id: str | None = None
    amount: Decimal | None = None
    """The amount that is in question."""
    currency: str | None = None
    payment_ids: tuple[str, ...] = ()
    repairable: bool = False
    """Whether it can be repaired without guessing."""
    repaired: bool = False
    remark: str | None = None
    """Why it could not be repaired."""
    since: datetime | None = None
    """When it was first found, if it is about an order and was found before."""


class Report:
    """Counts every discrepancy and keeps the first `SHOWN` for display."""

    SHOWN = 500

    def __init__(self) -> None:
        self.repaired: Counter[Kind] = Counter()
        self.open: Counter[Kind] = Counter()
        """Those that need a person."""
        self.shown: list[Discrepancy] = []

    def begin_again(self) -> None:
        """Prepares for another attempt, which finds open discrepancies again, but not repaired ones."""
        self.open.clear()
        self.shown = [discrepancy for discrepancy in self.shown if discrepancy.repaired]

    def add(self, discrepancy: Discrepancy) -> None:
        (self.repaired if discrepancy.repaired else self.open)[discrepancy.kind] += 1
        if len(self.shown) < self.SHOWN:
            self.shown.append(discrepancy)

    @property
    def total(self) -> int:
        return self.repaired.total() + self.open.total()

    def summary(self) -> str:
        """Returns a line for people."""
        parts = []
        if self.open:
            parts.append(f"{self.open.total()} need a person: {_list(self.open)}")
        if self.repaired:
            parts.append(f"{self.repaired.total()} repaired: {_list(self.repaired)}")
        return "; ".join(parts) or "no discrepancy"


def _list(counts: Counter[Kind]) -> str:
    return ", ".join(f"{count} x {kind.value.replace('_', ' ')}" for kind, count in counts.most_common())
