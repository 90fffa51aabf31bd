"""Implements the contract in SQL: an `Inventory` on our tables, each operation in its own transaction.

`order-saga inventory-service` serves it. With the embedded stock, the saga's steps run the same statements
(`shop.inventory.reservations`) in the transaction that journals them. Orders have no leases here, so the
service runs one request for an order at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text

from saga.connections import answered_within
from saga.database import Tx, new_async_engine
from shop.inventory import reservations
from shop.inventory.deliveries import DeliveryNote, DeliveryReceipt, store
from shop.inventory.errors import InventoryRefused, ReservationLost
from shop.inventory.ledger import HELD, SHIPPED_FOR, STOCK, Holding, ProductStock
from shop.inventory.port import reservation_id
from shop.inventory.service.contract import Reservation, State
from shop.settings import Settings

_POOL = 10
"""Limits the database connections."""
_SECONDS = 10
"""Timeout of an operation when the database does not answer, in seconds."""
_LOCK_ORDER = text("SELECT pg_advisory_xact_lock(7236115, hashtext(:id))")
_OF_ORDER = "SELECT order_id, id, state, items, expires_at, at_service FROM reservation WHERE order_id = :id"
_READ, _READ_LOCKED = text(_OF_ORDER), text(f"{_OF_ORDER} FOR UPDATE")
_MARK_AT_SERVICE = text("UPDATE reservation SET at_service = true WHERE order_id = :id")
_CLOSE = text(
    "INSERT INTO reservation (order_id, id, state, items, expires_at, ended_at, at_service) "
    "VALUES (:id, :name, 'released', '{}', now(), now(), true) ON CONFLICT (order_id) DO UPDATE SET state = "
    "'released', items = '{}', at_service = true"
)
_EXPIRED = text(
    "SELECT order_id, items FROM reservation WHERE state = 'held' AND at_service AND expires_at < now() "
    "ORDER BY order_id LIMIT :most FOR UPDATE SKIP LOCKED"
)


class DatabaseInventory:
    """An `Inventory` on the tables `product` and `reservation` of a database. Also raises database errors."""

    def __init__(self, database_url: str) -> None:
        url = Settings(DATABASE_URL=database_url).database_url
        self._engine = new_async_engine(
            url, pool_size=_POOL, max_overflow=0, pool_timeout=5, pool_pre_ping=True
        )

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        async with self._exclusive(order_id) as (tx, row):
            if row is not None and row.state in {State.RELEASED, State.RETURNED}:
                raise ReservationLost(f"the order has ended ({row.state}): nothing can be reserved for it")
            if row is not None and row.items != dict(items):
                raise InventoryRefused("the order has reserved other items before")
            if row is None or row.state == State.EXPIRED:
                refused = await reservations.take(tx, {order_id: items}, seconds)
                if order_id in refused:
                    raise refused[order_id]
                await tx.execute(_MARK_AT_SERVICE, {"id": order_id})
            else:
                await reservations.extend(tx, [order_id], seconds)
            return await _current(tx, order_id)

    async def get(self, order_id: str) -> Reservation | None:
        async with self._reading() as tx:
            row = (await tx.execute(_READ, {"id": order_id})).one_or_none()
        return _reservation(row) if row is not None else None

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        async with self._exclusive(order_id) as (tx, row):
            if row is None:
                return None
            await reservations.extend(tx, [order_id], seconds)
            return await _current(tx, order_id)

    async def release(self, order_id: str) -> Reservation:
        async with self._exclusive(order_id) as (tx, row):
            await _end(tx, order_id, row)
            return await _current(tx, order_id)

    async def commit(self, order_id: str) -> Reservation:
        async with self._exclusive(order_id) as (tx, row):
            if row is None or row.state not in {State.HELD, State.SHIPPED}:
                raise ReservationLost(
                    f"nothing is held for the order ({row.state if row else 'it never reserved'})"
                )
            if row.state == State.HELD:
                await reservations.ship(tx, [order_id])
            return await _current(tx, order_id)

    async def put_back(self, order_id: str) -> Reservation:
        async with self._exclusive(order_id) as (tx, row):
            if row is not None and row.state == State.SHIPPED:
                await reservations.put_back(tx, {order_id: row.items})
            else:
                await _end(tx, order_id, row)
            return await _current(tx, order_id)

    async def expire(self, *, most: int = 500) -> list[str]:
        """Releases up to `most` expired reservations. Returns the orders' ids."""
        async with self._writing() as tx:
            held = {row.order_id: row.items for row in await tx.execute(_EXPIRED, {"most": most})}
            if held:
                await reservations.give_back(tx, held, state=State.EXPIRED)
        return list(held)

    async def receive(
        self, deliveries: Sequence[DeliveryNote], *, started_by: str | None
    ) -> list[DeliveryReceipt]:
        """Records the deliveries and adds their pieces to the stock, all or none. Raises `DeliveryConflict`
        and `UnknownProducts`."""
        async with self._writing() as tx:
            return await store(tx, deliveries, started_by=started_by)

    async def stock(self) -> list[ProductStock]:
        """Returns every product and the sums of its movements, in one snapshot."""
        async with self._reading() as tx:
            return [ProductStock(**row._mapping) for row in await tx.execute(STOCK)]

    async def shipped(self, installation: str | None) -> dict[str, int]:
        """Returns the pieces per product that the service shipped for the orders of this installation (None:
        for orders without an installation id)."""
        async with self._reading() as tx:
            rows = await tx.execute(SHIPPED_FOR, {"installation": installation})
            return {row.product: row.pieces for row in rows}

    async def holdings(self) -> list[Holding]:
        """Returns all reservations that are held through the service."""
        async with self._reading() as tx:
            return [Holding(**row._mapping) for row in await tx.execute(HELD)]

    async def aclose(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Tx]:
        with answered_within(_SECONDS):
            async with self._engine.connect() as tx:
                yield tx

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Tx]:
        with answered_within(_SECONDS):
            async with self._engine.begin() as tx:
                yield tx

    @asynccontextmanager
    async def _exclusive(self, order_id: str) -> AsyncIterator[tuple[Tx, Any]]:
        """Opens a transaction with an exclusive lock on this order. Yields it, and the order's row in
        `reservation` (None: it has none)."""
        async with self._writing() as tx:
            await tx.execute(_LOCK_ORDER, {"id": order_id})
            row = (await tx.execute(_READ_LOCKED, {"id": order_id})).one_or_none()
            if row is not None and not row.at_service:
                raise InventoryRefused("the order has reserved without the inventory service")
            yield tx, row


async def _end(tx: Tx, order_id: str, row: Any) -> None:
    """Ends the order: what it holds is available again, and it can reserve nothing more."""
    if row is not None and row.state == State.HELD:
        await reservations.give_back(tx, {order_id: row.items})
    elif row is None or row.state == State.EXPIRED:
        await tx.execute(_CLOSE, {"id": order_id, "name": reservation_id(order_id)})


async def _current(tx: Tx, order_id: str) -> Reservation:
    return _reservation((await tx.execute(_READ, {"id": order_id})).one())


def _reservation(row: Any) -> Reservation:
    return Reservation(row.order_id, row.id, State(row.state), dict(row.items), row.expires_at)
