"""The shop's own database, without Prefect: orders,
leases and stock for the tests of the domain, and what its tables say afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from saga import claims
from saga.database import transaction
from shop.inventory.catalogue import ADD
from shop.orders.intake import submit_one
from shop.orders.order import EXAMPLE, OrderInstance
from shop.orders.store import ORDERS

TABLES = (
    "alert_notice",
    "alert",
    "alert_watch",
    "attention",
    "discrepancy",
    "desk_entry",
    "customer_interaction",
    "outbox",
    "shipment",
    "reservation",
    "product",
    "delivery",
    "order_step",
    "customer_order",
    "lease",
)


def an_order(
    order_id: str = "A", *items: tuple[str, int], card: str = "1234", **fields: Any
) -> dict[str, Any]:
    """A valid order; each item is (product, pieces) at 10.00."""
    lines = [
        {"product_id": product, "quantity": pieces, "price": "10.00"}
        for product, pieces in items or [("P", 1)]
    ]
    total = sum(line["quantity"] for line in lines) * 10  # type: ignore[misc]
    payment = {"method": "credit_card", "card_last4": card}
    return {
        **EXAMPLE,
        "id": order_id,
        "items": lines,
        "total_amount": f"{total}.00",
        "payment_info": payment,
        **fields,
    }


class Shop:
    """The database, asked past the code that is tested."""

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """Runs one statement in a transaction of its own."""
        async with transaction() as tx:
            result = await tx.execute(text(statement), parameters)
            return list(result.all()) if result.returns_rows else []

    async def value(self, statement: str, **parameters: Any) -> Any:
        """The only value of the only row."""
        ((value,),) = await self.rows(statement, **parameters)
        return value

    async def empty(self) -> None:
        """Empties all tables."""
        async with transaction() as tx:
            for table in TABLES:
                await tx.execute(text(f"DELETE FROM {table}"))

    # -- orders

    async def store(self, *orders: Mapping[str, Any]) -> None:
        for order in orders:
            assert (await submit_one(order)).status == "accepted"

    async def lease(self, seconds: float = 3600) -> UUID:
        """A worker's lease that is not renewed."""
        lease = uuid4()
        await self.rows(
            "INSERT INTO lease (id, holder, until) "
            "VALUES (:id, 'test', now() + make_interval(secs => :seconds))",
            id=lease,
            seconds=seconds,
        )
        return lease

    async def claim(self, *ids: str, most: int = 100, lease: UUID | None = None) -> list[OrderInstance]:
        """Claims these orders, or whatever is waiting."""
        lease = lease or await self.lease()
        async with transaction() as tx:
            return await claims.claim(tx, ORDERS, lease, most=most, ids=ids or None)

    async def instance(self, *orders: Mapping[str, Any]) -> list[OrderInstance]:
        """Stores the orders and claims them."""
        await self.store(*orders)
        claimed = await self.claim(*(str(order["id"]) for order in orders))
        assert len(claimed) == len(orders)
        return claimed

    async def expire_leases(self, *order_ids: str) -> None:
        """Of all workers, or of those who hold these orders."""
        await self.rows(
            "UPDATE lease SET until = now() - interval '1 second' "
            "WHERE :all OR id IN (SELECT lease_id FROM customer_order WHERE id = ANY(CAST(:ids AS text[])))",
            all=not order_ids,
            ids=list(order_ids),
        )

    async def order(self, order_id: str) -> Any:
        (row,) = await self.rows("SELECT * FROM customer_order WHERE id = :id", id=order_id)
        return row

    async def step(self, order_id: str, step: str) -> Any:
        """The journal's row, or None."""
        rows = await self.rows(
            "SELECT * FROM order_step WHERE order_id = :id AND step = :step", id=order_id, step=step
        )
        return rows[0] if rows else None

    async def count(self, table: str) -> int:
        return int(await self.value(f"SELECT count(*) FROM {table}"))

    # -- stock

    async def add_stock(self, **pieces: int) -> None:
        for product, n in pieces.items():
            async with transaction() as tx:
                await tx.execute(ADD, {"id": product, "name": product, "pieces": n})

    async def stock(self, product: str) -> tuple[int, int]:
        """(on hand, reserved)."""
        ((on_hand, reserved),) = await self.rows(
            "SELECT on_hand, reserved FROM product WHERE id = :id", id=product
        )
        return on_hand, reserved

    async def wrong_stock(self) -> list[Any]:
        """Products whose books do not balance,
        in one snapshot: on hand + shipped = received, reserved = what is held."""
        return await self.rows(
            """
            WITH pieces AS (
                SELECT e.key AS id,
                    coalesce(sum(e.value::bigint) FILTER (WHERE r.state = 'shipped'), 0) AS shipped,
                    coalesce(sum(e.value::bigint) FILTER (WHERE r.state = 'held'), 0) AS held
                FROM reservation r, jsonb_each_text(r.items) e GROUP BY e.key
            )
            SELECT p.*, coalesce(q.shipped, 0) AS shipped, coalesce(q.held, 0) AS held
            FROM product p LEFT JOIN pieces q ON q.id = p.id
            WHERE p.on_hand + coalesce(q.shipped, 0) <> p.received OR p.reserved <> coalesce(q.held, 0)
                OR p.on_hand < p.reserved OR p.reserved < 0
            """
        )
