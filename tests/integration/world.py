"""What the integration tests check: independent records (the gateway's ledger, stock, parcels, mails),
never just a status."""

from __future__ import annotations

import email
import mailbox
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text

from deployments.environment import environment
from shop.inventory.deliveries import read_delivery
from shop.inventory.stock import receive
from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_name
from shop.orders.order import EXAMPLE
from shop.reconciliation.books import read_books
from shop.runtime.sync import run_sync
from shop.settings import Settings
from shop.shipping.labels.content import LabelFormat
from shop.shipping.labels.stored import Label, NoLabel, find_label
from shop.values.money import from_minor

_ONE_ENVIRONMENT = threading.Lock()
"""All threads have the same, and some tests have a shop in each thread."""


@dataclass(frozen=True)
class World:
    """A shop with its own database, and a gateway with its own ledger."""

    database_url: str
    gateway_url: str
    var_dir: Path

    def sql(self, statement: str, **parameters: Any) -> list[Any]:
        engine = create_engine(Settings(DATABASE_URL=self.database_url).database_url)
        try:
            with engine.begin() as connection:
                result = connection.execute(text(statement), parameters)
                return list(result.all()) if result.returns_rows else []
        finally:
            engine.dispose()

    @property
    def installation(self) -> str:
        """The installation id, which everything bears that this shop creates outside."""
        return str(self.sql("SELECT id FROM installation")[0][0])

    def stock(self, product_id: str) -> tuple[int, int]:
        """(on hand, reserved)."""
        on_hand, reserved = self.sql("SELECT on_hand, reserved FROM product WHERE id = :id", id=product_id)[0]
        return on_hand, reserved

    def receive(self, product_id: str, pieces: int, *, name: str | None = None) -> None:
        """Goods arrive; with a name, of a new product."""
        delivery = read_delivery({"product_id": product_id, "pieces": pieces, "name": name})
        with _ONE_ENVIRONMENT, environment({"DATABASE_URL": self.database_url}):
            run_sync(lambda: receive([delivery], started_by="a test"))

    def ledger(self, order_id: str) -> list[dict[str, Any]]:
        """The gateway's own payments for the order."""
        answer = httpx.get(f"{self.gateway_url}/v1/payments", params={"order_id": order_id}, timeout=10)
        payments: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return payments

    def pay(self, order_id: str, amount: Decimal, *, confirmed: bool = True) -> str:
        """Somebody pays at the gateway, in the shop's own checkout. Returns the payment's id."""
        payments = f"{self.gateway_url}/v1/payments"
        body = {
            "order_id": order_id,
            "amount": int(amount * 100),
            "currency": "USD",
            "method": "credit_card",
            "card_last4": "1234",
        }
        payment_id = str(httpx.post(payments, json=body, timeout=10).raise_for_status().json()["id"])
        if confirmed:
            httpx.post(f"{payments}/{payment_id}/confirm", timeout=10).raise_for_status()
        return payment_id

    def money(self, order_id: str) -> tuple[Decimal, Decimal]:
        """(charged, refunded), by the gateway's ledger."""
        payments = self.ledger(order_id)
        charged = sum(payment["amount"] for payment in payments if payment["status"] == "succeeded")
        refunded = sum(refund["amount"] for payment in payments for refund in payment["refunds"])
        currency = payments[0]["currency"].upper() if payments else "USD"
        return from_minor(charged, currency), from_minor(refunded, currency)

    def charges(self, order_id: str) -> int:
        """How many times the order was charged."""
        return sum(payment["status"] == "succeeded" for payment in self.ledger(order_id))

    def shipments(self, order_id: str) -> int:
        return int(self.sql("SELECT count(*) FROM shipment WHERE order_id = :id", id=order_id)[0][0])

    def mails(self) -> dict[str, EmailMessage]:
        """File name to mail, as the standard library reads the Maildir; the names say order and kind."""
        if not (self.var_dir / "mail").exists():
            return {}
        found = mailbox.Maildir(self.var_dir / "mail", factory=None, create=False)
        return {
            name: email.message_from_bytes(found.get_bytes(name), policy=default)
            for name in sorted(found.keys())
        }

    def mail(self, order_id: str, kind: str) -> str:
        """The text of the order's mail of this kind. KeyError if there is none."""
        return text_of(self.mails()[mail_name(order_id, Kind(kind))])

    def mail_kinds(self, order_id: str, tries: int = 1) -> set[str]:
        """The kinds of mails that the order's customer has got, about one of so many tries."""
        mails, numbers = self.mails(), range(1, tries + 1)
        return {str(kind) for kind in Kind if any(mail_name(order_id, kind, n) in mails for n in numbers)}

    def labels(self, order_ids: Iterable[str]) -> dict[str, bytes]:
        """The labels of those orders that have one, as whoever prints them gets them."""

        async def found() -> dict[str, Label]:
            labels = {}
            for order_id in order_ids:
                with suppress(NoLabel):
                    labels[order_id] = await find_label(order_id)
            return labels

        ours = {"DATABASE_URL": self.database_url, "VAR_DIR": str(self.var_dir)}
        with _ONE_ENVIRONMENT, environment(ours):
            return {i: label.render(LabelFormat.PDF) for i, label in run_sync(found).items()}

    def journal(self, order_id: str) -> dict[str, Any]:
        """Step to its row."""
        rows = self.sql("SELECT * FROM order_step WHERE order_id = :id ORDER BY number", id=order_id)
        return {row.step: row for row in rows}

    def order(self, order_id: str) -> Any:
        return self.sql("SELECT * FROM customer_order WHERE id = :id", id=order_id)[0]

    def assert_books_balance(self) -> None:
        """Our money against the gateway's ledger,
        order by order (the ledger outlives a test), and the stock."""
        books = read_books(self.database_url, None)
        assert books.balanced, books.rows
        for order_id, charged, refunded in self.sql(
            "SELECT id, amount_charged, amount_refunded FROM customer_order WHERE outcome IS NOT NULL"
        ):
            assert self.money(order_id) == (charged, refunded), order_id

    def misbehave(self, **switches: Any) -> None:
        """Sets the gateway's switches."""
        httpx.post(f"{self.gateway_url}/sandbox/behaviour", json=switches, timeout=10).raise_for_status()


def text_of(mail: EmailMessage) -> str:
    """The plain part, as a mail program shows it."""
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def html_of(mail: EmailMessage) -> str:
    """The other part."""
    part = mail.get_body(("html",))
    assert part is not None
    return str(part.get_content())


def an_order(
    order_id: str,
    *,
    card: str = "1234",
    product: str = "PROD-001",
    country: str = "US",
    price: str = "999.99",
    **fields: Any,
) -> dict[str, Any]:
    """A good order for one piece; what the test is about is given."""
    return {
        **EXAMPLE,
        "id": order_id,
        "items": [{"product_id": product, "quantity": 1, "price": price}],
        "total_amount": price,
        "payment_info": {"method": "credit_card", "card_last4": card},
        "shipping_info": {**EXAMPLE["shipping_info"], "country": country},
        **fields,
    }
