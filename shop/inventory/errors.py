"""Errors of the inventory: items out of stock, a lost reservation, a failing service."""

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
            "out of stock: "
            + ", ".join(
                f"{s.product_id} ({s.requested} requested, {s.available} available)" for s in shortages
            )
        )

    def details(self) -> dict[str, Any]:
        return {**super().details(), "shortages": [asdict(shortage) for shortage in self.shortages]}

    def reasons(self) -> list[str]:
        return [f"{s.product_id}: {s.requested} requested, {s.available} available" for s in self.shortages]


class ReservationLost(StepError):
    """The reservation expired or ended before the order was shipped: another order may have its pieces."""

    code = "reservation_lost"


class InventoryUnavailable(StepError):
    """The inventory service cannot be reached, or fails. The request may have had its effect: look it up."""

    code = "inventory_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InventoryTimeout(InventoryUnavailable):
    """The inventory service did not answer in time. The result is unclear."""

    code = "inventory_timeout"


class InventoryMismatch(InventoryUnavailable):
    """The answer contradicts the request: another order, other items or an impossible state. It counts
    neither as done nor as refused."""

    code = "inventory_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the inventory service answered {differs}")


class InventoryRefused(StepError):
    """The inventory service refuses the request for another reason than stock or an ended reservation."""

    code = "inventory_refused"
    others_words = True


class InventoryMisconfigured(StepError):
    """The inventory service does not accept the token, or the address is not an inventory service. The
    message names the setting; a retry does not help."""

    code = "inventory_misconfigured"
