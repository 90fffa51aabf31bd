"""The six effects of an order and the compensations, as single SQL statements, with the tables they are on.

Every peer uses these statements, each in a transaction of its own at READ COMMITTED. Each one can be repeated
without a second effect, as engines that run a step at least once require of it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import psycopg

Order = dict[str, Any]
"""What a workflow takes: JSON."""

PRODUCTS = [f"PEER-{i:02}" for i in range(20)]
STOCK = 10**9

TABLES = """
CREATE TABLE stock (
    product text PRIMARY KEY,
    on_hand bigint NOT NULL,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand)
);
CREATE TABLE orders (
    id text PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL, confirmation text
);
CREATE TABLE reservation (
    order_id text, product text, quantity bigint NOT NULL, PRIMARY KEY (order_id, product)
);
CREATE TABLE ledger (
    id text PRIMARY KEY, order_id text NOT NULL, amount numeric NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE shipment (
    order_id text PRIMARY KEY, tracking text NOT NULL, at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE notification (
    order_id text PRIMARY KEY, recipient text NOT NULL, body text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
"""

VALIDATE = """
INSERT INTO orders (id, customer, total) VALUES (:id, :customer, CAST(:total AS numeric))
ON CONFLICT DO NOTHING
"""

# Locks the products in one order, so that orders do not deadlock. The CHECK refuses more than there is.
RESERVE = """
WITH wanted AS (
    SELECT * FROM unnest(CAST(:products AS text[]), CAST(:quantities AS bigint[])) AS w (product, quantity)
), locked AS (
    SELECT product FROM stock WHERE product = ANY(CAST(:products AS text[])) ORDER BY product FOR UPDATE
), fresh AS (
    INSERT INTO reservation SELECT :id, product, quantity FROM wanted JOIN locked USING (product)
    ON CONFLICT DO NOTHING RETURNING product, quantity
)
UPDATE stock SET reserved = reserved + fresh.quantity FROM fresh WHERE stock.product = fresh.product
"""

CHARGE = """
INSERT INTO ledger (id, order_id, amount) VALUES (:id || '-charge', :id, CAST(:total AS numeric))
ON CONFLICT DO NOTHING
"""

CONFIRM = "UPDATE orders SET confirmation = :text WHERE id = :id"

SHIP = """
WITH locked AS (
    SELECT product FROM stock WHERE product = ANY(CAST(:products AS text[])) ORDER BY product FOR UPDATE
), shipped AS (
    INSERT INTO shipment (order_id, tracking) VALUES (:id, 'TRACK-' || :id)
    ON CONFLICT DO NOTHING RETURNING order_id
), gone AS (
    SELECT product, quantity FROM reservation JOIN shipped USING (order_id) JOIN locked USING (product)
)
UPDATE stock SET on_hand = on_hand - gone.quantity, reserved = reserved - gone.quantity
FROM gone WHERE stock.product = gone.product
"""

NOTIFY = """
INSERT INTO notification (order_id, recipient, body) VALUES (:id, :customer, :text) ON CONFLICT DO NOTHING
"""

RELEASE = """
WITH locked AS (
    SELECT product FROM stock WHERE product = ANY(CAST(:products AS text[])) ORDER BY product FOR UPDATE
), gone AS (
    DELETE FROM reservation USING locked WHERE order_id = :id AND reservation.product = locked.product
    RETURNING reservation.product, quantity
)
UPDATE stock SET reserved = reserved - gone.quantity FROM gone WHERE stock.product = gone.product
"""

REFUND = """
INSERT INTO ledger (id, order_id, amount)
SELECT :id || '-refund', order_id, -amount FROM ledger WHERE id = :id || '-charge' ON CONFLICT DO NOTHING
"""


class Refused(Exception):
    """A refusal that no retry changes: the order is compensated."""


def new_orders(number: int, *, country: str = "US") -> list[Order]:
    """Returns orders of two items each, with new ids, distributed over the products."""
    stamp = uuid.uuid4().hex[:10]
    return [
        {
            "id": f"{stamp}-{i}",
            "customer": f"customer{i}@example.com",
            "country": country,
            "items": [
                {"product": PRODUCTS[i % len(PRODUCTS)], "quantity": 1, "price": "999.99"},
                {"product": PRODUCTS[(i + 7) % len(PRODUCTS)], "quantity": 2, "price": "29.99"},
            ],
        }
        for i in range(number)
    ]


def refuse_if_invalid(order: Order) -> None:
    """Raises Refused if the order has no items, or an item without quantity or price."""
    if not order["items"] or any(
        item["quantity"] < 1 or Decimal(item["price"]) <= 0 for item in order["items"]
    ):
        raise Refused(f"{order['id']} is invalid")


def refuse_if_unreachable(order: Order) -> None:
    """Raises Refused if the carrier does not deliver to the order's country."""
    if order["country"] == "XX":
        raise Refused(f"{order['id']} cannot be shipped")


def values(order: Order) -> dict[str, Any]:
    """Returns the values of the statements' parameters."""
    return {
        "id": order["id"],
        "customer": order["customer"],
        "total": str(total(order)),
        "products": [item["product"] for item in order["items"]],
        "quantities": [item["quantity"] for item in order["items"]],
        "text": confirmation(order),
    }


def total(order: Order) -> Decimal:
    """Returns the order's sum."""
    return sum((item["quantity"] * Decimal(item["price"]) for item in order["items"]), Decimal(0))


def confirmation(order: Order) -> str:
    """Returns the confirmation's text, from a template."""
    items = "\n".join(
        f"- {item['quantity']} x {item['product']} at {item['price']}" for item in order["items"]
    )
    return f"Thank you for your order {order['id']}.\n\n{items}\n\nTotal: {total(order)}\n"


@cache
def for_psycopg(statement: str) -> bytes:
    """Returns the statement with its parameters as psycopg writes them."""
    return re.sub(r":(\w+)", r"%(\1)s", statement).encode()


def create_tables(database_url: str) -> None:
    """Creates the tables, with plenty of stock, unless they exist."""
    with psycopg.connect(database_url) as connection:
        if connection.execute("SELECT to_regclass('stock')").fetchone() != (None,):
            return
        connection.execute(TABLES)
        connection.cursor().executemany(
            "INSERT INTO stock (product, on_hand) VALUES (%s, %s)", [(product, STOCK) for product in PRODUCTS]
        )


@dataclass(frozen=True, slots=True)
class Books:
    """What the tables say of some orders."""

    charged: Decimal
    refunded: Decimal
    shipped: int
    notified: int
    reserved: int
    """Items that are reserved and not shipped."""


_OPEN = "FROM reservation LEFT JOIN shipment USING (order_id) WHERE tracking IS NULL"


def books(database_url: str, orders: list[Order]) -> Books:
    """Returns what was done for the orders. Raises RuntimeError if the stock disagrees with the reservations
    and shipments of all orders."""
    ids = [order["id"] for order in orders]
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # one snapshot for all queries

        def ask(query: str, *parameters: object) -> Any:
            row = connection.execute(query.encode(), parameters).fetchone()
            return row[0] if row else None

        held = ask("SELECT sum(reserved) FROM stock"), ask("SELECT sum(%s - on_hand) FROM stock", STOCK)
        due = (
            ask(f"SELECT coalesce(sum(quantity), 0) {_OPEN}"),
            ask("SELECT coalesce(sum(quantity), 0) FROM reservation JOIN shipment USING (order_id)"),
        )
        if held != due:
            raise RuntimeError(f"the stock has (reserved, shipped) {held}, the orders have {due}")
        ours = "WHERE order_id = ANY(%s)"
        return Books(
            charged=ask(f"SELECT coalesce(sum(amount), 0) FROM ledger {ours} AND amount > 0", ids),
            refunded=ask(f"SELECT coalesce(-sum(amount), 0) FROM ledger {ours} AND amount < 0", ids),
            shipped=ask(f"SELECT count(*) FROM shipment {ours}", ids),
            notified=ask(f"SELECT count(*) FROM notification {ours}", ids),
            reserved=ask(f"SELECT coalesce(sum(quantity), 0) {_OPEN} AND order_id = ANY(%s)", ids),
        )


def require_done(database_url: str, orders: list[Order]) -> None:
    """Raises RuntimeError unless every order was charged, shipped and notified once."""
    expected = Books(sum(map(total, orders), Decimal(0)), Decimal(0), len(orders), len(orders), 0)
    if (found := books(database_url, orders)) != expected:
        raise RuntimeError(f"the orders did not complete: {found}, expected {expected}")


def require_compensated(database_url: str, orders: list[Order]) -> None:
    """Raises RuntimeError unless every order was charged and refunded, and nothing is shipped or reserved."""
    money = sum(map(total, orders), Decimal(0))
    expected = Books(money, money, 0, 0, 0)
    if (found := books(database_url, orders)) != expected:
        raise RuntimeError(f"the orders were not compensated: {found}, expected {expected}")
