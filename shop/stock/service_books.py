"""What inventory services say of their stock, beside what we say: for the books and for reconciliation.

One service has one shop's stock: what it shipped is compared with our parcels.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from shop.database import transaction
from shop.errors import OrderError
from shop.settings import settings
from shop.stock.inventories import service
from shop.stock.ledger import Holding, ProductStock
from shop.stock.service_client import ServiceInventory

_SERVICES = text(
    "SELECT DISTINCT notes ->> 'inventory' FROM order_step WHERE step = 'check_inventory' AND notes ->> 'inventory' IS NOT NULL"
)
_SHIPPED = text(
    "SELECT key AS product, sum(value::bigint)::bigint AS pieces FROM shipment s JOIN order_step c ON c.order_id = s.order_id "
    "AND c.step = 'check_inventory' AND c.notes ->> 'inventory' = :url, jsonb_each_text(s.items) WHERE s.returned_at IS NULL GROUP BY key"
)
_OUTCOMES = text("SELECT id, outcome FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
_UNDER_WAY = text(
    "SELECT EXISTS (SELECT 1 FROM customer_order o JOIN order_step c ON c.order_id = o.id AND c.step = 'check_inventory' "
    "WHERE (o.outcome IS NULL OR o.outcome = 'needs_attention') AND c.notes ->> 'inventory' = :url)"
)


@dataclass(slots=True)
class ServiceBook:
    """One service's book, and ours of it."""

    url: str
    stock: list[ProductStock] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)
    problem: str | None = None
    """Why the service does not say it."""
    shipped_by_us: Counter[str] = field(default_factory=Counter)
    """Pieces per product in our parcels that came from there and were not sent back."""
    held_by_ended: list[tuple[Holding, str | None]] = field(default_factory=list)
    """What is held for orders that have ended, or that we do not know (None). What needs attention keeps what it holds."""
    at_rest: bool = True
    """No order is under way there."""

    def wrong_shipped(self) -> dict[str, tuple[int, int]]:
        """Product to (our parcels, what the service says), where they differ."""
        theirs = {product.id: product.served for product in self.stock}
        products = sorted({*theirs, *self.shipped_by_us})
        both = {product: (self.shipped_by_us[product], theirs.get(product, 0)) for product in products}
        return {product: (ours, served) for product, (ours, served) in both.items() if ours != served}


def service_books(connection: Connection) -> list[ServiceBook]:
    """Asks every service that orders have their stock at, and the one of the settings. For callers without an event loop, or in a thread
    of their own."""
    urls = _urls(connection)
    if not urls:
        return []
    told = _in_a_loop_of_its_own(urls)
    return [_compared(connection, book) for book in told]


async def read_service_books() -> list[ServiceBook]:
    """The same, for callers with an event loop."""
    async with transaction() as tx:
        urls = await tx.run_sync(_urls)
    told = [await _ask(url) for url in urls]  # asked first: an order that has ended by the time that we look does not move any more
    async with transaction() as tx:
        return [await tx.run_sync(_compared, book) for book in told]


def _urls(connection: Connection) -> list[str]:
    return sorted({*connection.execute(_SERVICES).scalars(), *filter(None, [settings().inventory_service_url])})


def _in_a_loop_of_its_own(urls: list[str]) -> list[ServiceBook]:
    from concurrent.futures import ThreadPoolExecutor

    async def ask() -> list[ServiceBook]:
        return [await _ask(url) for url in urls]

    with ThreadPoolExecutor(1) as thread:  # the caller's own thread may have a loop that runs
        return thread.submit(lambda: asyncio.run(ask())).result()


async def _ask(url: str) -> ServiceBook:
    at: ServiceInventory = service(url)
    book = ServiceBook(url)
    try:
        book.stock, book.holdings = await at.stock(), await at.holdings()
    except OrderError as error:
        book.problem = str(error)
    finally:
        await at.aclose()
    return book


def _compared(connection: Connection, book: ServiceBook) -> ServiceBook:
    book.shipped_by_us = Counter({row.product: row.pieces for row in connection.execute(_SHIPPED, {"url": book.url})})
    outcomes = {row.id: row.outcome for row in connection.execute(_OUTCOMES, {"ids": [each.order_id for each in book.holdings]})}
    for holding in book.holdings:
        outcome = outcomes.get(holding.order_id)
        if holding.order_id not in outcomes or outcome not in {None, "needs_attention"}:
            book.held_by_ended.append((holding, outcome))
    book.at_rest = not connection.execute(_UNDER_WAY, {"url": book.url}).scalar()
    return book
