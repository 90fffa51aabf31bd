"""Checks many orders at once against independent records:
the gateway's own ledger, the stock, the parcels, the mails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

import httpx

from shop.orders import report
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.reconciliation.books import read_books
from tests.integration.world import World, an_order

PRICE = Decimal("249.00")
PRODUCT = "PROD-004"
STOCK = 5_000
KINDS: dict[str, dict[str, Any]] = {
    "good": {},
    "flaky": {"card": "0119"},
    "declined": {"card": "0000"},
    "unshippable": {"country": "AQ"},
    "short": {"product": "OUT-OF-STOCK"},
}
ENDS = {
    "good": Outcome.COMPLETED,
    "flaky": Outcome.COMPLETED,
    "declined": Outcome.COMPENSATED,
    "unshippable": Outcome.COMPENSATED,
    "short": Outcome.OUT_OF_STOCK,
}
Orders = dict[str, dict[str, Any]]


def order_of(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """An order of that kind: one piece of `PRODUCT` at `PRICE`."""
    return an_order(f"{kind}-{name}", **{"product": PRODUCT, "price": str(PRICE), **KINDS[kind], **fields})


def mixed(name: str, n: int, *, flaky: bool = True) -> Orders:
    """So many orders by id: most are good, the others fail in all their ways. Not `flaky`: where a step's
    retries are needed for more than its own failures."""
    kinds = ["good", "good", "good", *(kind for kind in KINDS if flaky or kind != "flaky")]
    orders = [order_of(kinds[i % len(kinds)], f"{name}-{i}") for i in range(n)]
    return {order["id"]: order for order in orders}


def stock_up(world: World) -> None:
    """Enough of the product for all."""
    world.receive(PRODUCT, STOCK - world.stock(PRODUCT)[0])


def payments(world: World, order_ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """The gateway's own payments for these orders."""
    found: dict[str, list[dict[str, Any]]] = {order_id: [] for order_id in order_ids}
    query: dict[str, Any] = {"limit": 1000}
    with httpx.Client(base_url=world.gateway_url, timeout=30) as client:
        while True:
            page = client.get("/v1/payments", params=query).raise_for_status().json()
            for payment in page["data"]:
                if payment["order_id"] in found:
                    found[payment["order_id"]].append(payment)
            if not page["has_more"]:
                return found
            query["starting_after"] = page["data"][-1]["id"]


def charged(found: list[dict[str, Any]]) -> list[Decimal]:
    """Every charge among an order's payments."""
    return [Decimal(payment["amount"]) / 100 for payment in found if payment["status"] == "succeeded"]


def refunded(found: list[dict[str, Any]]) -> Decimal:
    return sum(
        (Decimal(refund["amount"]) / 100 for payment in found for refund in payment["refunds"]), Decimal(0)
    )


def all_ended(world: World, order_ids: Collection[str] | None = None) -> bool:
    """Whether all orders (or these) have an outcome."""
    known = world.sql("SELECT id FROM customer_order WHERE outcome IS NOT NULL")
    ended = {row.id for row in known}
    return (
        set(order_ids) <= ended
        if order_ids is not None
        else len(ended) == world.sql("SELECT count(*) FROM customer_order")[0][0]
    )


def assert_right(
    world: World,
    orders: Mapping[str, Any],
    expected: Mapping[str, Outcome] | None = None,
    *,
    shelf: World | None = None,
) -> None:
    """Every order has its one right outcome, no effect happened twice, and the books balance.

    The orders are all of the shop's; each is one piece of `PRODUCT`, or of something that is sold out, at
    `PRICE`. `shelf`: where their stock is, if that is not the shop's own database.
    """
    shelf = shelf or world
    wanted = expected or {order_id: ENDS[order_id.split("-")[0]] for order_id in orders}
    ends = report.read(list(orders))
    others = {
        i: (end.outcome, end.failing_step, end.reasons)
        for i, end in ends.items()
        if end.outcome is not wanted[i]
    }
    assert len(ends) == len(wanted), f"{len(wanted) - len(ends)} orders are not known"
    assert not others, f"not as they should have ended: {others}"
    completed = {i for i, outcome in wanted.items() if outcome is Outcome.COMPLETED}
    for order_id, found in payments(world, orders).items():
        charges, back, end = charged(found), refunded(found), ends[order_id]
        assert len(charges) <= 1, f"{order_id} was charged {len(charges)} times"
        assert sum(charges) - back == (PRICE if order_id in completed else 0), (
            f"{order_id}: {charges} charged, {back} refunded"
        )
        assert (sum(charges), back) == (end.amount_charged, end.amount_refunded), (
            f"{order_id}: the books say something else"
        )
    shipped = {row.order_id for row in world.sql("SELECT order_id FROM shipment")}
    assert shipped == completed, f"not shipped: {completed - shipped}; shipped as well: {shipped - completed}"
    assert shelf.stock(PRODUCT) == (STOCK - len(completed), 0)
    assert not shelf.sql("SELECT 1 FROM reservation WHERE state = 'held'")
    assert not world.sql(
        "SELECT 1 FROM order_step WHERE undo_due AND order_id <> ALL(:kept)", kept=list(completed)
    )
    balance = read_books(world.database_url, None)
    assert balance.balanced, balance.rows


def assert_mails(world: World, orders: Mapping[str, Any]) -> None:
    """Who gets a parcel has one confirmation, who got money back has one mail about it, who could
    not pay or ordered what is not there has one that says so,
    and there are no other mails. The CRM has the same."""
    ends = report.read(list(orders))
    wanted = Counter((i, kind) for i, end in ends.items() for kind in due(end))
    sent = world.sql("SELECT order_id, kind FROM outbox WHERE sent_at IS NOT NULL")
    counted = Counter((row.order_id, row.kind) for row in sent)
    assert counted == wanted, f"sent and not due: {counted - wanted}; due and not sent: {wanted - counted}"
    contacts = world.sql("SELECT order_id, kind FROM customer_interaction")
    assert Counter((row.order_id, row.kind.removeprefix("order_")) for row in contacts) == wanted
    mails = world.mails()
    assert len(mails) == len({mail["Message-ID"] for mail in mails.values()}) == len(wanted)


def due(end: OrderOutcome) -> list[str]:
    """The kinds of mails that its customer gets."""
    kinds = {
        "confirmation": end.outcome is Outcome.COMPLETED,
        "refund": end.amount_refunded > 0,
        "payment_failed": end.outcome is Outcome.COMPENSATED
        and end.failing_step == "process_payment"
        and not end.amount_charged,
        "out_of_stock": end.outcome is Outcome.OUT_OF_STOCK,
    }
    return [kind for kind, is_due in kinds.items() if is_due]


_OPEN = """
SELECT o.id, o.fence, o.takeovers, o.not_before - now() AS not_before, o.failing_step, l.holder,
    l.until - now() AS left, l.taken_from,
    (SELECT string_agg(step || ' ' || status, ', ' ORDER BY number)
        FROM order_step s WHERE s.order_id = o.id) AS steps
FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id WHERE o.outcome IS NULL
"""
_CONNECTIONS = """
SELECT pid, state, wait_event, now() - xact_start AS since, left(query, 80) AS query FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


def open_orders_report(world: World) -> str:
    """Every order that is still open, its lease,
    and what keeps the database busy, for whoever reads a failure."""
    return "\n".join(str(row._mapping) for query in (_OPEN, _CONNECTIONS) for row in world.sql(query))
