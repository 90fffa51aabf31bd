"""The six effects as set-based SQL, 500 orders in each transaction: the limit of what is possible here."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks.peers import effects
from benchmarks.peers.effects import Order, new_orders, require_done
from benchmarks.peers.timing import WARM_UP, database_url, parse, show

BATCH = 500

ITEMS = """
unnest(CAST(%(ids_of_items)s AS text[]), CAST(%(products)s AS text[]), CAST(%(quantities)s AS bigint[]))
AS item (order_id, product, quantity)
"""
ORDERS = """
unnest(CAST(%(ids)s AS text[]), CAST(%(customers)s AS text[]), CAST(%(totals)s AS numeric[]),
       CAST(%(texts)s AS text[])) AS o (id, customer, total, body)
"""
STATEMENTS = (
    f"""
    INSERT INTO orders (id, customer, total) SELECT id, customer, total FROM {ORDERS}
    ON CONFLICT DO NOTHING
    """,
    f"""
    WITH locked AS (SELECT product FROM stock ORDER BY product FOR UPDATE), fresh AS (
        INSERT INTO reservation SELECT order_id, product, quantity FROM {ITEMS} JOIN locked USING (product)
        ON CONFLICT DO NOTHING RETURNING product, quantity
    ), wanted AS (SELECT product, sum(quantity) AS quantity FROM fresh GROUP BY product)
    UPDATE stock SET reserved = reserved + wanted.quantity FROM wanted WHERE stock.product = wanted.product
    """,
    f"""
    INSERT INTO ledger (id, order_id, amount) SELECT id || '-charge', id, total FROM {ORDERS}
    ON CONFLICT DO NOTHING
    """,
    f"UPDATE orders SET confirmation = o.body FROM {ORDERS} WHERE orders.id = o.id",
    """
    WITH locked AS (SELECT product FROM stock ORDER BY product FOR UPDATE), shipped AS (
        INSERT INTO shipment (order_id, tracking)
        SELECT id, 'TRACK-' || id FROM unnest(CAST(%(ids)s AS text[])) AS id
        ON CONFLICT DO NOTHING RETURNING order_id
    ), gone AS (
        SELECT product, sum(quantity) AS quantity
        FROM reservation JOIN shipped USING (order_id) JOIN locked USING (product) GROUP BY product
    )
    UPDATE stock SET on_hand = on_hand - gone.quantity, reserved = reserved - gone.quantity
    FROM gone WHERE stock.product = gone.product
    """,
    f"""
    INSERT INTO notification (order_id, recipient, body) SELECT id, customer, body FROM {ORDERS}
    ON CONFLICT DO NOTHING
    """,
)


def main(number: int) -> dict[str, Any]:
    """Measures `number` orders, after a warm-up that is not counted."""
    orders = new_orders(number)
    with psycopg.connect(database_url(), autocommit=True) as connection:
        _run(connection, new_orders(WARM_UP))
        begin = time.perf_counter()
        for i in range(0, number, BATCH):
            _run(connection, orders[i : i + BATCH])
        elapsed = time.perf_counter() - begin
    require_done(database_url(), orders)
    return {"orders": number, "orders_per_second": number / elapsed}


def _run(connection: psycopg.Connection, orders: list[Order]) -> None:
    for order in orders:
        effects.refuse_if_invalid(order)
        effects.refuse_if_unreachable(order)
    items = [(order["id"], item["product"], item["quantity"]) for order in orders for item in order["items"]]
    parameters = {
        "ids": [order["id"] for order in orders],
        "customers": [order["customer"] for order in orders],
        "totals": [effects.total(order) for order in orders],
        "texts": [effects.confirmation(order) for order in orders],
        "ids_of_items": [order_id for order_id, _, _ in items],
        "products": [product for _, product, _ in items],
        "quantities": [quantity for _, _, quantity in items],
    }
    with connection.transaction():
        for statement in STATEMENTS:
            connection.execute(statement.encode(), parameters)


if __name__ == "__main__":
    show(main(parse().number))
