"""Changes stock and reservations, by order id: set-based statements in the caller's transaction.

The lock order prevents deadlocks: orders by id, then reservations, then products by id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json
from shop.inventory.errors import OutOfStock, ReservationLost, Shortage
from shop.inventory.port import reservation_id

_HELD = text(
    "SELECT order_id, id, state, items FROM reservation WHERE order_id = ANY(CAST(:ids AS text[])) ORDER BY "
    "order_id FOR UPDATE"
)
_LOCK_PRODUCTS = text(
    "SELECT id, on_hand - reserved AS available FROM product WHERE id = ANY(CAST(:ids AS text[])) ORDER BY "
    "id FOR NO KEY UPDATE"
)
_MOVE = text(
    "UPDATE product p SET on_hand = p.on_hand + d.on_hand, reserved = p.reserved + d.reserved "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS d(id text, on_hand bigint, reserved bigint) "
    "WHERE p.id = d.id AND p.on_hand + d.on_hand >= p.reserved + d.reserved AND p.reserved + d.reserved >= 0"
)
_RESERVE = text(
    "INSERT INTO reservation (order_id, id, state, items, expires_at) "
    "SELECT order_id, id, 'held', items, now() + make_interval(secs => :seconds) "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, id text, items jsonb) "
    "ON CONFLICT (order_id) DO UPDATE SET state = 'held', items = excluded.items, expires_at = "
    "excluded.expires_at, ended_at = NULL"
)
_EXTEND = text(
    "UPDATE reservation SET expires_at = greatest(expires_at, now() + make_interval(secs => :seconds)) "
    "WHERE order_id = ANY(CAST(:ids AS text[])) AND state = 'held'"
)
_END = text(
    "UPDATE reservation SET state = :state, ended_at = now() WHERE order_id = ANY(CAST(:ids AS text[]))"
)


async def take(tx: Tx, asking: Mapping[str, Mapping[str, int]], seconds: float) -> dict[str, OutOfStock]:
    """Reserves for orders that hold nothing (order id to pieces per product), in their sequence. Returns the
    refusals of those that are short."""
    available = await lock_products(tx, {product for wanted in asking.values() for product in wanted})
    taken: Counter[str] = Counter()
    refused: dict[str, OutOfStock] = {}
    for order_id, wanted in asking.items():
        short = [
            Shortage(p, n, max(available.get(p, 0), 0)) for p, n in wanted.items() if n > available.get(p, 0)
        ]
        if short:
            refused[order_id] = OutOfStock(short)
            continue
        for product, pieces in wanted.items():
            available[product] -= pieces
            taken[product] += pieces
    await _move(tx, reserved=taken)
    if rows := [
        {"order_id": i, "id": reservation_id(i), "items": wanted}
        for i, wanted in asking.items()
        if i not in refused
    ]:
        await tx.execute(_RESERVE, {"rows": as_json(rows), "seconds": seconds})
    return refused


async def extend(tx: Tx, order_ids: Sequence[str], seconds: float) -> None:
    """Extends the orders' held reservations to at least this many seconds from now. The caller has locked
    the orders."""
    await tx.execute(_EXTEND, {"ids": list(order_ids), "seconds": seconds})


async def give_back(tx: Tx, held: Mapping[str, Mapping[str, int]], *, state: str = "released") -> None:
    """Releases these held reservations (order id to pieces per product), whose rows the caller has locked."""
    pieces = _sum(held.values())
    await lock_products(tx, pieces)
    await _move(tx, reserved=Counter({product: -n for product, n in pieces.items()}))
    if held:
        await tx.execute(_END, {"state": state, "ids": list(held)})


async def ship(tx: Tx, order_ids: Sequence[str]) -> dict[str, dict[str, int] | ReservationLost]:
    """Takes what the orders hold out of stock: `on_hand` and `reserved` both decrease. Returns the pieces per
    product by order id."""
    held = await lock_held(tx, order_ids)
    pieces = _sum(held.values())
    await lock_products(tx, pieces)
    out = Counter({product: -n for product, n in pieces.items()})
    await _move(tx, on_hand=out, reserved=out)
    if held:
        await tx.execute(_END, {"state": "shipped", "ids": list(held)})
    return {
        i: held[i] if i in held else ReservationLost("the reservation expired before the order was shipped")
        for i in order_ids
    }


async def put_back(tx: Tx, shipped: Mapping[str, Mapping[str, int]]) -> None:
    """Puts returned pieces (order id to pieces per product) into stock again."""
    if not shipped:
        return
    await lock_held(tx, list(shipped))
    pieces = _sum(shipped.values())
    await lock_products(tx, pieces)
    await _move(tx, on_hand=pieces)
    await tx.execute(_END, {"state": "returned", "ids": list(shipped)})


async def lock_held(tx: Tx, order_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Locks the orders' reservations. Returns those that are held: order id to pieces per product."""
    rows = await tx.execute(_HELD, {"ids": list(order_ids)})
    return {row.order_id: row.items for row in rows.all() if row.state == "held"}


async def lock_products(tx: Tx, product_ids: Iterable[str]) -> dict[str, int]:
    """Locks the products in the sequence of their ids. Returns the available pieces of each."""
    ids = sorted(set(product_ids))
    if not ids:
        return {}
    return {row.id: row.available for row in (await tx.execute(_LOCK_PRODUCTS, {"ids": ids})).all()}


async def _move(
    tx: Tx, *, on_hand: Mapping[str, int] | None = None, reserved: Mapping[str, int] | None = None
) -> None:
    on_hand, reserved = on_hand or {}, reserved or {}
    moving = [p for p in dict.fromkeys([*on_hand, *reserved]) if on_hand.get(p) or reserved.get(p)]
    rows: list[dict[str, Any]] = [
        {"id": p, "on_hand": on_hand.get(p, 0), "reserved": reserved.get(p, 0)} for p in moving
    ]
    if not rows:
        return
    moved = await tx.execute(_MOVE, {"rows": as_json(rows)})
    if moved.rowcount != len(rows):  # the products are locked: this is a bug, or somebody changed the tables
        raise RuntimeError("stock and reservations contradict each other: nothing was moved")


def _sum(reservations: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for items in reservations:
        total.update(items)
    return total
