"""Where workers die: a fresh database for each case,
two gateways (one forgets its keys), and what may be asked afterwards."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from deployments.local.files import tail
from deployments.local.postgres import EmbeddedPostgres
from shop.inventory.catalogue import load_sample_catalogue
from shop.inventory.service.contract import State
from shop.notifications.kinds import Kind
from shop.notifications.mail import message_id
from shop.orders.outcomes import Outcome
from shop.reconciliation.books import read_books
from shop.reconciliation.outstanding import ACTION
from shop.settings import Settings
from tests.crash.scenarios import AT_STRIPE, PRICE, Scenario, checkout, stranger
from tests.crm_server import SECRET, Crm
from tests.easypost_server import EasyPost
from tests.integration.stripe_world import StripeWorld, paid_by
from tests.integration.world import World
from tests.inventory_server import InventoryServer, inventory_server
from tests.localstripe_server import LocalStripe
from tests.mail_server import MailServer
from tests.worker_forkserver.forkserver import Forkserver, Process

STRIPE = "is Stripe"
SERVICE = "a service"
"""In place of the inventory service's address, which each shop's own has."""
_OVER = {State.RELEASED, State.RETURNED}
_DEFAULTS = Settings(_env_file=None)  # type: ignore[call-arg]
# What an hour does to what a dead worker left: its lease is over, what it had postponed or taken is due.
_TIME_PASSES = (
    "UPDATE lease SET until = now() - interval '2 minutes'",
    "UPDATE customer_order SET not_before = NULL WHERE not_before IS NOT NULL",
    "UPDATE attention SET next_retry_at = now() WHERE resolved_at IS NULL AND next_retry_at IS NOT NULL",
    "UPDATE payment_event SET next_attempt_at = now() WHERE handled_at IS NULL",
    "UPDATE outbox SET next_attempt_at = now() WHERE sent_at IS NULL",
)
_COUNTS = """
    SELECT o.id, o.outcome, o.amount_charged, o.amount_refunded, o.amount_at_risk, o.amount_elsewhere,
        o.takeovers,
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
    forkserver: Forkserver
    gateways: Mapping[str, str]
    """`remembers` and `forgets`: their addresses."""
    easypost: EasyPost
    """The carrier outside."""
    stripe: LocalStripe
    """A third one, which forgets too, and is asked by Stripe's client."""
    mail_server: MailServer
    crm: Crm
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _creating: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def shop(self, gateway: str, *, outside: bool = False, **settings: str) -> Iterator[Shop]:
        """A fresh shop with the sample catalogue.
        `outside`: its mails go to the mail server, and its contacts to the CRM."""
        if outside:
            settings["SMTP_URL"] = f"smtp://{self.mail_server.host}:{self.mail_server.port}"
            settings |= {"CRM_WEBHOOK_URL": self.crm.url, "CRM_WEBHOOK_SECRET": SECRET}
        name = f"crash_{next(self._numbers)}"
        if settings.get("CARRIER") == "easypost":
            settings = {**self.easypost.settings, **settings}
        with self._creating:
            self.postgres.create_database(name, template=self.template)
        stack = ExitStack()
        try:
            url = self.postgres.url(name)
            load_sample_catalogue(url)
            folder = self.folder / name
            folder.mkdir()
            service = (
                stack.enter_context(self._inventory(name))
                if settings.get("INVENTORY_SERVICE_URL") == SERVICE
                else None
            )
            if service is not None:
                settings |= service.settings
            if gateway == STRIPE:
                yield Shop(
                    self,
                    StripeWorld(url, self.stripe.url, folder, self.stripe),
                    {**self.stripe.settings, **settings},
                    outside,
                    service,
                )
            else:
                yield Shop(self, World(url, self.gateways[gateway], folder), settings, outside, service)
        finally:
            stack.close()
            self.postgres.drop_database(name)

    @contextmanager
    def _inventory(self, name: str) -> Iterator[InventoryServer]:
        """An inventory service for one shop, on a database of its own."""
        name = f"{name}_stock"
        with self._creating:
            self.postgres.create_database(name, template=self.template)
        try:
            load_sample_catalogue(self.postgres.url(name))
            with inventory_server(self.postgres.url(name)) as service:
                yield service
        finally:
            self.postgres.drop_database(name)


@dataclass
class Shop:
    """A shop's database, folder and gateway, and workers that work for it."""

    site: Site
    world: World
    settings: Mapping[str, str]
    outside: bool = False
    inventory: InventoryServer | None = None

    def work(
        self, lane: str, orders: Sequence[dict[str, Any]] = (), *, seconds: float = 90, **options: Any
    ) -> int:
        """Runs a worker to its end; its exit status.
        AssertionError if it neither ended well in time nor was killed."""
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
            "CARRIER_TIMEOUT_SECONDS": "2",
            "INVENTORY_TIMEOUT_SECONDS": "2",
            "LEASE_SECONDS": "60",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "LOG_LEVEL": "ERROR",
            **self.settings,
        }
        return self.site.forkserver.process(
            "walk", env=environment, lane=lane, orders=list(orders), **options
        )

    def some_orders(self, *scenarios: Scenario) -> tuple[list[dict[str, Any]], dict[str, Scenario]]:
        """New orders, one for each, and which is which; paid as this shop's gateway can be."""
        by_id = {f"CRASH-{uuid.uuid4().hex[:10]}": scenario for scenario in scenarios}
        return [self._paid(scenario, scenario.order(order_id)) for order_id, scenario in by_id.items()], by_id

    def _paid(self, scenario: Scenario, order: dict[str, Any]) -> dict[str, Any]:
        """The order, which this gateway can charge; or for which the shop's checkout has taken the money."""
        if scenario.adopts:
            reference = self.world.pay(checkout(order["id"]), Decimal(order["total_amount"]))
            return {**order, "payment_info": {"method": "already_paid", "reference": reference}}
        if isinstance(self.world, StripeWorld) and (token := AT_STRIPE[scenario.name]) is not None:
            return paid_by(token, order)
        return order

    def time_passes(self) -> None:
        for statement in _TIME_PASSES:
            self.world.sql(statement)

    def mail_kinds(self, order_id: str, tries: int = 1) -> set[str]:
        """The kinds of mails that have arrived. By SMTP the one that a worker died over may have come twice,
        as the same mail. Asserts that the CRM has all contacts."""
        if not self.outside:
            return self.world.mail_kinds(order_id, tries)
        counted = Counter(self.site.mail_server.ids)
        mailed = {
            kind: counted[message_id(order_id, kind, _DEFAULTS, self.world.installation)] for kind in Kind
        }
        assert max(mailed.values()) <= 2
        contacts = Counter(
            message.body["data"]["contact"]
            for message in self.site.crm.received
            if message.body["data"]["order_id"] == order_id
        )
        assert {contact.removeprefix("order_") for contact in contacts} == {
            str(kind) for kind, times in mailed.items() if times
        }
        assert (
            sum(counted[message_id(order_id, kind, _DEFAULTS, self.world.installation)] > 1 for kind in Kind)
            <= 1
        )
        assert not self.site.crm.wrong
        return {str(kind) for kind, times in mailed.items() if times}

    def check(self, orders: Mapping[str, Scenario]) -> None:
        """Checks all independent records: each order has its one correct outcome,
        and nothing happened twice."""
        rows = {row.id: row for row in self.world.sql(_COUNTS, ids=list(orders))}
        labels = self.world.labels(orders)
        for order_id, expected in orders.items():
            assert order_id in rows, f"{order_id} was lost"
            row = rows[order_id]
            ledger = checkout(order_id) if expected.adopts else order_id
            assert row.outcome == expected.outcome, f"the outcome of {order_id} is {row.outcome}"
            assert self.world.charges(ledger) == (expected.charges if expected.charged else 0), (
                "the charges in the gateway's ledger"
            )
            assert self.world.money(ledger) == (expected.charged, expected.refunded), (
                "the money in the gateway's ledger"
            )
            assert not expected.adopts or self.world.ledger(order_id) == [], "it was paid already"
            assert (row.amount_charged, row.amount_refunded) == (expected.charged, expected.refunded), (
                "our amounts"
            )
            assert row.amount_at_risk == expected.at_risk, "the amount at risk"
            assert row.amount_elsewhere == expected.elsewhere, "the amount that others took"
            assert row.shipments == expected.parcel, "the parcel"
            assert (row.contacts, row.unsent) == (len(expected.mail_kinds), 0), (
                "what was sent to the customer, and is still to be sent"
            )
            assert row.messages == len(expected.mail_kinds) * (2 if self.outside else 1), (
                "a mail, and a message for the CRM if there is one"
            )
            left = {payment["status"] for payment in self.world.ledger(order_id)} & {"created"}
            assert not expected.tidy or not left, "a payment is left that could still be charged"
            assert row.held == 0, "a reservation is left"
            assert (order_id in labels) == (expected.parcel and not expected.returned), "the label"
            assert self.mail_kinds(order_id, expected.tries) == expected.mail_kinds, "the mails"
            if self.settings.get("CARRIER") == "easypost":
                assert self.site.easypost.good_labels(order_id) == (
                    expected.parcel and not expected.returned
                ), "the carrier's labels"
                assert len(self.site.easypost.labels(order_id)) <= 1, "the carrier's labels"
            if self.inventory is not None:
                self._check_stock(self.inventory, order_id, expected)
            assert row.decisions == (expected.by_hand > 0), "the review entries"
            if expected.accepted:
                self._check_stranger(stranger(order_id))
        books = read_books(self.world.database_url, None)
        assert books.balanced, f"the books: {books.rows}"
        assert self.world.sql("SELECT count(*) FROM lease WHERE until > now()") == [(0,)], "a lease is left"

    def _check_stranger(self, order_id: str) -> None:
        """What a person has accepted is accepted, by one entry; and no money has moved for it."""
        assert self.world.sql(
            "SELECT accepted_at IS NOT NULL FROM discrepancy WHERE order_id = :id", id=order_id
        ) == [(True,)], "accepted"
        assert self.world.sql('SELECT action, "by" FROM desk_entry WHERE order_id = :id', id=order_id) == [
            (ACTION, "ann")
        ]
        assert self.world.money(order_id) == (PRICE, 0), "the stranger's money in the gateway's ledger"

    def _check_stock(self, inventory: InventoryServer, order_id: str, expected: Scenario) -> None:
        """The service is asked: what became of the order's pieces, and whether its stock is what moved it."""
        found = inventory.do(inventory.inventory.get(inventory.name_of(order_id, expected.tries)))
        states = (
            {None}
            if expected.digital
            else {State.SHIPPED}
            if expected.outcome is Outcome.COMPLETED
            else {State.RETURNED}
            if expected.returned
            else _OVER
        )
        assert (found.state if found else None) in states, "the inventory service"
        stock = inventory.do(inventory.inventory.stock())
        assert all(product.is_sound for product in stock), stock
        assert self.world.sql("SELECT 1 FROM reservation WHERE items <> '{}'") == [], (
            "our own stock has no part in it"
        )
