"""The suite's own checks can fail: after an undisturbed order, one record at a time is falsified."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_name
from tests.crash.scenarios import PRICE, SCENARIOS
from tests.crash.site import Shop, Site

pytestmark = pytest.mark.alone  # it has all the servers of the crash tests

_ORDER = "UPDATE customer_order SET {} WHERE id = :id"
_LIES = (
    # the check's message, what is falsified, and how it is restored
    (
        "was lost",
        "UPDATE customer_order SET id = 'another' WHERE id = :id",
        "UPDATE customer_order SET id = :id WHERE id = 'another'",
    ),
    ("the outcome", _ORDER.format("outcome = 'compensated'"), _ORDER.format("outcome = 'completed'")),
    (
        "our amounts",
        _ORDER.format("amount_charged = amount_charged + 1"),
        _ORDER.format("amount_charged = amount_charged - 1"),
    ),
    ("our amounts", _ORDER.format("amount_refunded = amount_charged"), _ORDER.format("amount_refunded = 0")),
    (
        "the amount at risk",
        _ORDER.format("amount_at_risk = amount_charged"),
        _ORDER.format("amount_at_risk = 0"),
    ),
    (
        "the amount that others took",
        _ORDER.format("amount_elsewhere = 1"),
        _ORDER.format("amount_elsewhere = 0"),
    ),
    (
        "a reservation is left",
        "UPDATE reservation SET state = 'held' WHERE order_id = :id",
        "UPDATE reservation SET state = 'shipped' WHERE order_id = :id",
    ),
    (
        "the parcel",
        "UPDATE shipment SET order_id = 'another' WHERE order_id = :id",
        "UPDATE shipment SET order_id = :id WHERE order_id = 'another'",
    ),
    ("the label", _ORDER.format("erased_at = now()"), _ORDER.format("erased_at = NULL")),
    (
        "what was sent to the customer",
        "UPDATE customer_interaction SET order_id = 'another' WHERE order_id = :id",
        "UPDATE customer_interaction SET order_id = :id WHERE order_id = 'another'",
    ),
    (
        "is still to be sent",
        "UPDATE outbox SET sent_at = NULL WHERE order_id = :id",
        "UPDATE outbox SET sent_at = now() WHERE order_id = :id",
    ),
    (
        "a mail, and a message",
        "INSERT INTO outbox (order_id, kind, payload, sent_at) VALUES (:id, 'refund', '{}', now())",
        "DELETE FROM outbox WHERE order_id = :id AND kind = 'refund'",
    ),
    (
        "the review entries",
        """INSERT INTO desk_entry (order_id, action, "by") VALUES (:id, 'written_off', 'nobody')""",
        "DELETE FROM desk_entry WHERE order_id = :id",
    ),
    (
        "the books",
        "UPDATE product SET on_hand = on_hand - 1 WHERE id = 'PROD-001'",
        "UPDATE product SET on_hand = on_hand + 1 WHERE id = 'PROD-001'",
    ),
    (
        "the books",
        "UPDATE product SET reserved = reserved + 1 WHERE id = 'PROD-001'",
        "UPDATE product SET reserved = reserved - 1 WHERE id = 'PROD-001'",
    ),
    (
        "a lease is left",
        (
            "INSERT INTO lease (id, holder, until) "
            "VALUES (gen_random_uuid(), 'nobody', now() + interval '1 hour')"
        ),
        "DELETE FROM lease WHERE holder = 'nobody'",
    ),
)


def test_the_witnesses_find_violations(site: Site) -> None:
    completes = SCENARIOS["completes"]
    with site.shop("remembers") as shop:
        sent, orders = shop.some_orders(completes)
        shop.work("pending", sent)
        shop.check(orders)
        (order_id,) = orders
        for message, wrong, right in _LIES:
            shop.world.sql(wrong, **({"id": order_id} if ":id" in wrong else {}))
            with pytest.raises(AssertionError, match=message):
                shop.check(orders)
            shop.world.sql(right, **({"id": order_id} if ":id" in right else {}))
        shop.check(orders)
        mails = shop.world.var_dir / "mail" / "new"
        confirmation = mails / mail_name(order_id, Kind.CONFIRMATION)
        with _moved_aside(confirmation), pytest.raises(AssertionError, match="the mails"):
            shop.check(orders)
        shutil.copy(confirmation, more := mails / mail_name(order_id, Kind.REFUND))
        with pytest.raises(AssertionError, match="the mails"):
            shop.check(orders)
        more.unlink()
        shop.check(orders)
        # What the gateway has done cannot be put right again.
        another = _ask(
            shop,
            "payments",
            order_id=order_id,
            amount=int(PRICE * 100),
            currency="USD",
            method="credit_card",
            card_last4="1234",
        )
        shop.check(orders)
        with pytest.raises(AssertionError, match="that could still be charged"):
            shop.check({order_id: replace(completes, tidy=True)})
        _ask(shop, "refunds", payment_id=shop.world.ledger(order_id)[0]["id"], amount=1, currency="USD")
        with pytest.raises(AssertionError, match="the money in the gateway's ledger"):
            shop.check(orders)
        _ask(shop, f"payments/{another}/confirm")
        with pytest.raises(AssertionError, match="the charges in the gateway's ledger"):
            shop.check(orders)


@contextmanager
def _moved_aside(file: Path) -> Iterator[None]:
    aside = file.rename(file.with_name("aside"))
    yield
    aside.rename(file)


def _ask(shop: Shop, what: str, **fields: object) -> str:
    """The gateway does it. Returns the id of what it has made."""
    made: str = (
        httpx.post(f"{shop.world.gateway_url}/v1/{what}", json=fields, timeout=10)
        .raise_for_status()
        .json()["id"]
    )
    return made
