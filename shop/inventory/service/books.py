"""Compares the records of inventory services with ours, for reports and reconciliation.

A service may serve several shops: what it shipped for our orders is compared with our parcels, and of its
reservations only those of our orders are checked. A service that cannot distinguish shops must have one
shop's stock only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, text

from saga.database import transaction
from saga.errors import StepError
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.service.client import ServiceInventory
from shop.inventory.service.connections import service
from shop.inventory.service.contract import split_own_order_id
from shop.runtime.installation import read_installation_id
from shop.runtime.sync import run_sync
from shop.settings import settings

_SERVICES = text(
    "SELECT DISTINCT notes ->> 'inventory' AS url, notes ->> 'installation_id' AS installation FROM "
    "order_step "
    "WHERE step = 'check_inventory' AND notes ->> 'inventory' IS NOT NULL"
)
_SHIPPED = text(
    "SELECT key AS product, c.notes ->> 'installation_id' IS NOT NULL AS marked, sum(value::bigint)::bigint "
    "AS pieces "
    "FROM shipment s JOIN order_step c ON c.order_id = s.order_id AND c.step = 'check_inventory' AND c.notes "
    "->> 'inventory' = :url, "
    "jsonb_each_text(s.items) WHERE s.returned_at IS NULL GROUP BY key, marked"
)
_ORDERS = text(
    "SELECT o.id, o.outcome, c.notes ->> 'installation_id' AS installation, c.notes ->> 'inventory' AS url "
    "FROM customer_order o "
    "LEFT JOIN order_step c ON c.order_id = o.id AND c.step = 'check_inventory' WHERE o.id = ANY(CAST(:ids "
    "AS text[]))"
)
_UNDER_WAY = text(
    "SELECT EXISTS (SELECT 1 FROM customer_order o JOIN order_step c ON c.order_id = o.id AND c.step = "
    "'check_inventory' "
    "WHERE (o.outcome IS NULL OR o.outcome = 'needs_attention') AND c.notes ->> 'inventory' = :url)"
)


@dataclass(slots=True)
class ServiceBook:
    """One service's records, and ours about it."""

    url: str
    stock: list[ProductStock] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)
    """Held reservations at the service, including other shops', by the orders' names there."""
    shipped: dict[str | None, dict[str, int]] | None = None
    """Pieces per product that the service has shipped, by installation id (None: for orders without one).
    None: the service cannot distinguish shops."""
    problem: str | None = None
    """Why the service could not be read."""
    shipped_by_us: Counter[str] = field(default_factory=Counter)
    """Pieces per product in our parcels from this service that were not returned."""
    shipped_unmarked: Counter[str] = field(default_factory=Counter)
    """The part of `shipped_by_us` for orders without an installation id at the service, which an earlier
    version began."""
    held_by_ended: list[tuple[Holding, str | None]] = field(default_factory=list)
    """Reservations held for orders of ours that have ended, with their outcome, or that are not in our
    database (None). Orders under manual review may keep theirs."""
    at_rest: bool = True
    """Whether no order with stock there is in progress or under manual review."""

    def wrong_shipped(self) -> dict[str, tuple[int, int]]:
        """Returns (pieces in our parcels, pieces shipped by the service) of each product where they
        differ."""
        products = sorted({*(product.id for product in self.stock), *self.shipped_by_us})
        both = {product: (self.shipped_by_us[product], self._served(product)) for product in products}
        return {product: (ours, served) for product, (ours, served) in both.items() if ours != served}

    def shipped_for_others(self) -> int:
        """Returns the pieces that the service has shipped for other shops."""
        return sum(product.served for product in self.stock) - sum(
            self._served(product.id) for product in self.stock
        )

    def _served(self, product_id: str) -> int:
        """Returns the pieces that the service has shipped for us. Some orders without an installation id may
        be another shop's: at most the pieces in our parcels count as ours."""
        if self.shipped is None:
            return next((product.served for product in self.stock if product.id == product_id), 0)
        marked = sum(
            pieces.get(product_id, 0)
            for installation, pieces in self.shipped.items()
            if installation is not None
        )
        return marked + min(self.shipped.get(None, {}).get(product_id, 0), self.shipped_unmarked[product_id])


def service_books(connection: Connection) -> list[ServiceBook]:
    """Reads every service with stock of our orders, and the one of the settings, and compares. For
    synchronous callers; blocks."""
    services = _services(connection)
    books = run_sync(lambda: _ask_all(services)) if services else []
    return [_compare(connection, book, services[book.url]) for book in books]


async def read_service_books() -> list[ServiceBook]:
    """Runs the comparison of `service_books` for asynchronous callers."""
    async with transaction() as tx:
        services = await tx.run_sync(_services)
    # The services first: orders that have ended by the time our records are read do not change any more.
    books = await _ask_all(services)
    async with transaction() as tx:
        return [await tx.run_sync(_compare, book, services[book.url]) for book in books]


def _services(connection: Connection) -> dict[str, set[str]]:
    """Returns the services' addresses, each with the installation ids in the names of our orders there."""
    rows, mine = connection.execute(_SERVICES).all(), read_installation_id(connection)
    urls = sorted({*(row.url for row in rows), *filter(None, [settings().inventory.service_url])})
    return {
        url: {mine, *(row.installation for row in rows if row.url == url and row.installation)}
        for url in urls
    }


async def _ask_all(services: Mapping[str, set[str]]) -> list[ServiceBook]:
    return [await _ask(url, installations) for url, installations in services.items()]


async def _ask(url: str, installations: set[str]) -> ServiceBook:
    at: ServiceInventory = service(url)
    book = ServiceBook(url)
    try:
        book.stock, book.holdings = await at.stock(), await at.holdings()
        shipped = {each: await at.shipped(each) for each in (None, *sorted(installations))}
        known = {each: pieces for each, pieces in shipped.items() if pieces is not None}
        book.shipped = known if len(known) == len(shipped) else None
    except StepError as error:
        book.problem = str(error)
    finally:
        await at.aclose()
    return book


def _compare(connection: Connection, book: ServiceBook, installations: set[str]) -> ServiceBook:
    for row in connection.execute(_SHIPPED, {"url": book.url}):
        book.shipped_by_us[row.product] += row.pieces
        if not row.marked:
            book.shipped_unmarked[row.product] += row.pieces
    names = [split_own_order_id(each.order_id) for each in book.holdings]
    orders = {
        row.id: row for row in connection.execute(_ORDERS, {"ids": [order_id for _, order_id in names]})
    }
    for holding, (installation, order_id) in zip(book.holdings, names, strict=True):
        order = orders.get(order_id)
        begun_there = order is not None and order.url == book.url and order.installation == installation
        if installation not in installations and not begun_there:
            continue  # another shop's order
        outcome = order.outcome if order is not None and begun_there else None
        if order is None or not begun_there or outcome not in {None, "needs_attention"}:
            book.held_by_ended.append((replace(holding, order_id=order_id), outcome))
    book.at_rest = not connection.execute(_UNDER_WAY, {"url": book.url}).scalar()
    return book
