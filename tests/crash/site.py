"""Where workers die: a fresh database for each case, two gateways (one forgets its keys), and what may be asked afterwards."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.stack.files import tail
from deployments.stack.postgres import EmbeddedPostgres
from shop.books import read_books
from shop.catalogue import load_sample_catalogue
from shop.outcomes import Outcome
from tests.crash.scenarios import AT_STRIPE, Scenario
from tests.integration.stripe_world import StripeWorld, paid_by
from tests.integration.world import World
from tests.localstripe_server import LocalStripe
from tests.nursery.nursery import Nursery, Process

STRIPE = "is Stripe"
# What an hour does to what a dead worker left: its lease is over, what it had put off or taken is due.
_TIME_PASSES = (
    "UPDATE lease SET until = now() - interval '1 second'",
    "UPDATE customer_order SET not_before = NULL WHERE not_before IS NOT NULL",
    "UPDATE attention SET next_retry_at = now() WHERE resolved_at IS NULL AND next_retry_at IS NOT NULL",
    "UPDATE payment_event SET next_attempt_at = now() WHERE handled_at IS NULL",
    "UPDATE outbox SET next_attempt_at = now() WHERE sent_at IS NULL",
)
_COUNTS = """
    SELECT o.id, o.outcome, o.amount_charged, o.amount_refunded, o.amount_at_risk, o.takeovers,
        (SELECT count(*) FROM shipment s WHERE s.order_id = o.id) AS shipments,
        (SELECT count(*) FROM outbox m WHERE m.order_id = o.id) AS messages,
        (SELECT count(*) FROM outbox m WHERE m.order_id = o.id AND m.sent_at IS NULL) AS unsent,
        (SELECT count(*) FROM customer_interaction c WHERE c.order_id = o.id) AS contacts,
        (SELECT count(*) FROM desk_entry d WHERE d.order_id = o.id AND d.action <> 'cancel') AS decisions,
        (SELECT count(*) FROM reservation r WHERE r.order_id = o.id AND r.state = 'held') AS held
    FROM customer_order o WHERE o.id = ANY(CAST(:ids AS text[]))
"""


@dataclass
class Site:
    """One session's servers."""

    postgres: EmbeddedPostgres
    template: str
    folder: Path
    nursery: Nursery
    gateways: Mapping[str, str]
    """`remembers` and `forgets`: their addresses."""
    stripe: LocalStripe | None = None
    """A third one, which forgets too, and is asked by Stripe's client."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _creating: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def shop(self, gateway: str, **settings: str) -> Iterator[Shop]:
        """A fresh shop with the sample catalogue."""
        name = f"crash_{next(self._numbers)}"
        with self._creating:
            self.postgres.create_database(name, template=self.template)
        try:
            url = self.postgres.url(name)
            load_sample_catalogue(url)
            folder = self.folder / name
            folder.mkdir()
            if gateway == STRIPE:
                assert self.stripe is not None
                yield Shop(self, StripeWorld(url, self.stripe.url, folder, self.stripe), {**self.stripe.settings, **settings})
            else:
                yield Shop(self, World(url, self.gateways[gateway], folder), settings)
        finally:
            self.postgres.drop_database(name)


@dataclass
class Shop:
    """A shop's database, folder and gateway, and workers that work for it."""

    site: Site
    world: World
    settings: Mapping[str, str]

    def work(self, lane: str, orders: Sequence[dict[str, Any]] = (), *, seconds: float = 90, **options: Any) -> int:
        """Runs a worker to its end; its exit status. AssertionError if it neither ended well in time nor was killed."""
        worker = self.start(lane, orders, **options)
        status = worker.gone(seconds)
        assert status in {0, -9}, f"a worker ended with {status}:\n{tail(worker.log, 40)}"
        return status

    def start(self, lane: str, orders: Sequence[dict[str, Any]] = (), **options: Any) -> Process:
        environment = {
            "DATABASE_URL": self.world.database_url,
            "VAR_DIR": str(self.world.var_dir),
            "PAYMENT_GATEWAY_URL": self.world.gateway_url,
            "PAYMENT_TIMEOUT_SECONDS": "1",
            "LEASE_SECONDS": "60",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "LOG_LEVEL": "ERROR",
            **self.settings,
        }
        return self.site.nursery.process("walk", env=environment, lane=lane, orders=list(orders), **options)

    def some_orders(self, *scenarios: Scenario) -> tuple[list[dict[str, Any]], dict[str, Scenario]]:
        """New orders, one for each, and which is which; paid as this shop's gateway can be."""
        by_id = {f"CRASH-{uuid.uuid4().hex[:10]}": scenario for scenario in scenarios}
        sent = [scenario.order(order_id) for order_id, scenario in by_id.items()]
        if isinstance(self.world, StripeWorld):
            sent = [paid_by(AT_STRIPE[by_id[order["id"]].name], order) for order in sent]
        return sent, by_id

    def time_passes(self) -> None:
        for statement in _TIME_PASSES:
            self.world.sql(statement)

    def check(self, orders: Mapping[str, Scenario]) -> None:
        """Everybody who can tell is asked: each order has reached its one right end, and nothing happened twice."""
        rows = {row.id: row for row in self.world.sql(_COUNTS, ids=list(orders))}
        mails, labels = list(self.world.mails()), self.world.labels()
        for order_id, expected in orders.items():
            assert order_id in rows, f"{order_id} was lost"
            row, completed = rows[order_id], expected.outcome is Outcome.COMPLETED
            shipped = completed or expected.returned
            assert row.outcome == expected.outcome, order_id
            assert self.world.charges(order_id) == (1 if expected.charged else 0), "the gateway's ledger"
            assert self.world.money(order_id) == (expected.charged, expected.refunded), "the gateway's ledger"
            assert (row.amount_charged, row.amount_refunded) == (expected.charged, expected.refunded)
            assert row.amount_at_risk == (expected.charged if expected.outcome is Outcome.NEEDS_ATTENTION else 0)
            assert (row.shipments, row.contacts) == (shipped, shipped)
            given_back = expected.refunded + expected.by_hand
            assert (row.messages, row.unsent) == (int(shipped) + int(given_back > 0), 0)
            assert not expected.tidy or "created" not in {payment["status"] for payment in self.world.ledger(order_id)}
            assert row.held == 0, "a reservation is left"
            assert (f"{order_id}.pdf" in labels) == shipped
            assert mails.count(f"{order_id}.eml") == shipped
            assert mails.count(f"{order_id}-refund.eml") == (given_back > 0)
            assert row.decisions == (expected.by_hand > 0), "the desk's entries"
        books = read_books(self.world.database_url)
        assert books.balanced, books.rows
        assert self.world.sql("SELECT count(*) FROM lease WHERE until > now()") == [(0,)]
