"""The product catalogue, with a cache per process: products change rarely and are read often."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from sqlalchemy import text

from saga.database import Tx, new_engine, transaction
from shop.settings import Settings

SAMPLE: Mapping[str, tuple[str, int]] = {
    "PROD-001": ("Laptop", 100),
    "PROD-002": ("Mouse", 50),
    "PROD-003": ("Keyboard", 0),
    "PROD-004": ("Monitor", 25),
    "LAPTOP": ("Laptop", 20),
    "OUT-OF-STOCK": ("Sold out", 0),
    "LAST-ONE": ("The last one", 1),
}
"""The sample catalogue: product id to name and pieces in stock."""

ADD = text(
    "WITH new AS (INSERT INTO product (id, name, received, on_hand) VALUES (:id, :name, :pieces, :pieces) "
    "ON CONFLICT (id) DO NOTHING RETURNING id, received), "
    "opening AS (INSERT INTO delivery (reference, items, note) "
    "SELECT 'opening stock of ' || id, jsonb_build_object(id, received), 'added with the product' "
    "FROM new WHERE received <> 0 ON CONFLICT (reference) DO NOTHING) "
    "SELECT id FROM new"
)
"""Adds a product that does not exist yet (`id`, `name`), and its opening stock as a delivery (`pieces`)."""
_NAMES = text("SELECT id, name FROM product WHERE id = ANY(CAST(:ids AS text[]))")


class ProductCache:
    """Caches up to `most` names of products for `seconds` each. Unknown ids are not cached."""

    def __init__(self, seconds: float = 60, most: int = 10_000) -> None:
        self._seconds, self._most = seconds, most
        self._names: dict[str, tuple[float, str]] = {}

    def cached(self, product_ids: set[str]) -> set[str]:
        """Returns those of the ids whose names are cached, without a query."""
        now = time.monotonic()
        return {i for i in product_ids if i in self._names and self._names[i][0] >= now}

    async def names(self, tx: Tx, product_ids: Iterable[str]) -> dict[str, str]:
        """Returns the names of the products that exist, by id."""
        now, asked = time.monotonic(), set(product_ids)
        missing = [i for i in asked if i not in self._names or self._names[i][0] < now]
        if missing:
            if len(self._names) + len(missing) > self._most:
                self._names.clear()
            for row in await tx.execute(_NAMES, {"ids": missing}):
                self._names[row.id] = (now + self._seconds, row.name)
        return {i: self._names[i][1] for i in asked if i in self._names}


products = ProductCache()


class KnownProducts:
    """The catalogue as validation needs it. Queries in a short transaction of its own, unless every product
    is in the cache."""

    async def known(self, product_ids: set[str]) -> set[str]:
        if len(cached := products.cached(product_ids)) == len(product_ids):
            return cached
        async with transaction() as tx:
            return set(await products.names(tx, product_ids))


def load_catalogue(database_url: str, catalogue: Mapping[str, tuple[str, int]]) -> int:
    """Adds missing products, with their pieces as a recorded delivery. Never changes existing stock. Returns
    how many it added."""
    url = Settings(DATABASE_URL=database_url).database_url
    engine = new_engine(url)
    try:
        with engine.begin() as connection:
            added = [
                connection.execute(ADD, {"id": i, "name": name, "pieces": pieces}).scalar()
                for i, (name, pieces) in catalogue.items()
            ]
            return sum(each is not None for each in added)
    finally:
        engine.dispose()


def load_sample_catalogue(database_url: str) -> int:
    """Adds the products of the sample orders. Returns how many it added."""
    return load_catalogue(database_url, SAMPLE)
