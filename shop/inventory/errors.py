"""Errors of the inventory: items out of stock, a lost reservation, a failing service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    quotes_external_system = True


class InventoryMisconfigured(StepError):
    """The inventory service does not accept the token, or the address is not an inventory service. The
    message names the setting; a retry does not help."""

    code = "inventory_misconfigured"


class InvalidDelivery(StepError):
    """A delivery that cannot be recorded; names every problem with its place."""

    code = "invalid_delivery"
    refusal = True

    def __init__(self, problems: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("the delivery is invalid: " + "; ".join(self.reasons()))

    def reasons(self) -> list[str]:
        return [f"{'.'.join(map(str, place)) or 'delivery'}: {what}" for place, what in self.problems]


class UnknownProducts(StepError):
    """Goods of products that are not in the catalogue, without names to create them."""

    code = "unknown_product"
    refusal = True

    def __init__(self, product_ids: Sequence[str]) -> None:
        self.product_ids = tuple(product_ids)
        super().__init__(
            f"not in the catalogue: {', '.join(map(repr, product_ids))}. Nothing was received. "
            "Give a name for each new product, which creates it"
        )


class DeliveryConflict(StepError):
    """A reference that was received before with other goods."""

    code = "delivery_conflict"
    refusal = True

    def __init__(self, received: Mapping[str, Mapping[str, int]]) -> None:
        self.received = dict(received)
        super().__init__(
            "received before with other goods: "
            + "; ".join(
                f"{reference!r} ({', '.join(f'{n} x {product}' for product, n in sorted(items.items()))})"
                for reference, items in received.items()
            )
            + ". Nothing was received now. Another delivery needs another reference"
        )


class DeliveriesNotRecorded(StepError):
    """The inventory service has no way to receive goods over HTTP."""

    code = "deliveries_not_recorded"

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the inventory service at {url} has the stock and records no deliveries (it has no "
            "POST /v1/deliveries): receive the goods there"
        )
