"""Errors of the inventory: items that are short, a reservation that is over, a service that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saga.errors import StepError


@dataclass(frozen=True, slots=True)
class Shortage:
    """One item that cannot be reserved."""

    product_id: str
    requested: int
    available: int


class OutOfStock(StepError):
    """At least one item is short; nothing was reserved."""

    code = "out_of_stock"
    refusal = True

    def __init__(self, shortages: Sequence[Shortage]) -> None:
        self.shortages = tuple(shortages)
        super().__init__(
            "out of stock: " + ", ".join(f"{s.product_id} ({s.requested} requested, {s.available} available)" for s in shortages)
        )

    def details(self) -> dict[str, Any]:
        return {**super().details(), "shortages": [asdict(shortage) for shortage in self.shortages]}

    def reasons(self) -> list[str]:
        return [f"{s.product_id}: {s.requested} requested, {s.available} available" for s in self.shortages]


class ReservationLost(StepError):
    """The reservation ran out, or was ended, before the parcel left: what it held may be another's by now."""

    code = "reservation_lost"


class InventoryUnavailable(StepError):
    """The inventory service cannot be reached just now, or fails. What it was asked may have been done all the same: look it up."""

    code = "inventory_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InventoryTimeout(InventoryUnavailable):
    """No answer in time: the stock may or may not have moved."""

    code = "inventory_timeout"


class InventoryMismatch(InventoryUnavailable):
    """The inventory service's answer is about another order or other items than ours: it counts neither as done nor as refused."""

    code = "inventory_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the inventory service answered {differs}")


class InventoryRefused(StepError):
    """The inventory service understood and says no, for a reason that is neither stock nor time."""

    code = "inventory_refused"
    others_words = True


class InventoryMisconfigured(StepError):
    """The inventory service does not accept us, or is none; names the setting. Trying again does not help."""

    code = "inventory_misconfigured"
