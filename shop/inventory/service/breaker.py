"""A circuit breaker for an inventory service. Refusals, such as out of stock, do not count as failures."""

from __future__ import annotations

from collections.abc import Mapping

from saga.circuit_breaker import Circuit, OnChange
from shop.inventory.errors import InventoryMismatch, InventoryUnavailable
from shop.inventory.service.contract import Inventory, Reservation


def is_failure(_kind: type[BaseException], error: BaseException) -> bool:
    """Returns whether the error counts as a failure of the service. A wrong answer for one order does not,
    nor does an answer that gives the time of the next attempt."""
    return (
        isinstance(error, InventoryUnavailable)
        and not isinstance(error, InventoryMismatch)
        and error.retry_after is None
    )


class GuardedInventory:
    """An `Inventory` that raises `InventoryUnavailable` at once, with `retry_after`, while its circuit is
    open."""

    def __init__(
        self, inner: Inventory, *, failures: int, pause_seconds: float, concurrency: int, on_change: OnChange
    ) -> None:
        """Opens the circuit after this many consecutive failures; after `pause_seconds` one call tries the
        service again. `concurrency` limits the concurrent calls."""
        self.inner = inner
        self._circuit = Circuit(
            failures=failures,
            pause_seconds=pause_seconds,
            concurrency=concurrency,
            is_failure=is_failure,
            unavailable=_unavailable,
            on_change=on_change,
        )

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        return await self._circuit.ask(lambda: self.inner.reserve(order_id, items, seconds=seconds))

    async def get(self, order_id: str) -> Reservation | None:
        return await self._circuit.ask(lambda: self.inner.get(order_id))

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        return await self._circuit.ask(lambda: self.inner.keep(order_id, seconds=seconds))

    async def release(self, order_id: str) -> Reservation:
        return await self._circuit.ask(lambda: self.inner.release(order_id))

    async def commit(self, order_id: str) -> Reservation:
        return await self._circuit.ask(lambda: self.inner.commit(order_id))

    async def put_back(self, order_id: str) -> Reservation:
        return await self._circuit.ask(lambda: self.inner.put_back(order_id))

    async def aclose(self) -> None:
        await self.inner.aclose()


def _unavailable(wait: float) -> InventoryUnavailable:
    return InventoryUnavailable(
        "the inventory service is unavailable and is not called for a while", retry_after=wait
    )
