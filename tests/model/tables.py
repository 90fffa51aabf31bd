"""What the test itself does to the tables:
a new beginning for each history, and time that passes for everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg

from shop.inventory.catalogue import load_catalogue
from shop.orders import intake
from tests.model.core import join
from tests.model.orders import IDS, KINDS, PIECES, order

_TABLES = (
    "customer_order",
    "order_step",
    "lease",
    "reservation",
    "shipment",
    "outbox",
    "customer_interaction",
    "attention",
    "desk_entry",
)
_GONE = ", ".join(f"gone_{table} AS (DELETE FROM {table})" for table in _TABLES)
_STOCK = ", ".join(f"('{name}', {pieces})" for name, pieces in PIECES.items())
_EMPTY = (
    f"WITH {_GONE} UPDATE product SET received = pieces, on_hand = pieces, reserved = 0 "
    f"FROM (VALUES {_STOCK}) AS stock(name_of, pieces) WHERE id = name_of"
)
_SWEEP = "VACUUM " + ", ".join((*_TABLES, "product"))
_SWEEP_EVERY = 50
# Taking an order in costs as much as a step: each is taken in once, and kept for all histories.
_KEEP = (
    (
        "CREATE TABLE IF NOT EXISTS stored_order AS "
        "SELECT id, number, content, fingerprint, '' AS kind FROM customer_order WITH NO DATA"
    ),
    "INSERT INTO stored_order SELECT id, number, content, fingerprint, %s FROM customer_order",
    "DELETE FROM customer_order",
)
_COME = (
    "INSERT INTO customer_order (id, number, content, fingerprint) OVERRIDING SYSTEM VALUE "
    "SELECT id, number, content, fingerprint FROM stored_order "
    "WHERE (id, kind) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY id"
)
# Save for what somebody is just now writing about: the test must not wait.
_LEASES = (
    "UPDATE lease SET until = now() - interval '2 minutes' WHERE id IN (SELECT l.id FROM lease l "
    "WHERE l.id IN (SELECT lease_id FROM customer_order WHERE id = ANY(%s)) FOR NO KEY UPDATE SKIP LOCKED)"
)
_RESERVATIONS = (
    "UPDATE reservation SET expires_at = now() - interval '1 second' WHERE order_id IN "
    "(SELECT order_id FROM reservation FOR NO KEY UPDATE SKIP LOCKED)"
)
_PAUSES = (
    "UPDATE customer_order SET not_before = NULL WHERE id IN "
    "(SELECT id FROM customer_order WHERE not_before IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED)"
)
_REVIEW = (
    "UPDATE attention SET next_retry_at = now() WHERE order_id IN "
    "(SELECT order_id FROM attention WHERE resolved_at IS NULL FOR NO KEY UPDATE SKIP LOCKED)"
)


class Tables:
    def __init__(self, url: str) -> None:
        self.db = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        join([self.db.pgconn.backend_pid])
        self._begun = 0
        load_catalogue(url, {product: (product, pieces) for product, pieces in PIECES.items()})
        self.db.execute(_KEEP[0])
        for kind in KINDS:
            intake.submit([order(order_id, kind) for order_id in IDS])
            self.db.execute(_KEEP[1], [kind])
            self.db.execute(_KEEP[2])

    def close(self) -> None:
        self.db.close()

    def begin(self, kinds: Mapping[str, str]) -> None:
        """Nothing is there but stock, and these orders (id to kind)."""
        if self._begun % _SWEEP_EVERY == 0:  # what was deleted is in the way of every scan
            self.db.execute(_SWEEP, prepare=False)
        self._begun += 1
        self.db.execute(_EMPTY)
        self.db.execute(_COME, [list(kinds), list(kinds.values())])

    def leases_run_out(self, order_ids: Sequence[str]) -> None:
        """Those that hold these orders."""
        self.db.execute(_LEASES, [list(order_ids)])

    def reservations_run_out(self) -> None:
        self.db.execute(_RESERVATIONS)

    def pauses_end(self) -> None:
        """Of postponed orders, and of those under manual review."""
        self.db.execute(_PAUSES)
        self.db.execute(_REVIEW)
