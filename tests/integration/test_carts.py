"""Any cart through the whole saga, in currencies with none, two and three decimals. The gateway's ledger
says, in the smallest units, that what was charged is the cart's total less its part payments, and that all of
it came back for the orders that failed."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from flows.process_pending_orders import process_pending_orders
from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_name
from shop.orders import intake
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.orders.report import read
from shop.payments.gateways import gateway
from shop.reconciliation.books import gateway_totals, read_books
from shop.values.money import decimals
from tests.carts import Cart, carts
from tests.integration.world import World, text_of

PRODUCTS = ("CART-1", "CART-2")
_PIECES = 100_000
_CARDS = {"declined": "0000", "refund refused": "0259"}
FATES = st.sampled_from(["ships", "ships", "cannot be shipped", *_CARDS])


@dataclass(frozen=True)
class Sent:
    """An order of a cart, and what has to become of its money."""

    order: dict[str, Any]
    cart: Cart
    fate: str

    @property
    def due(self) -> Decimal:
        return self.cart.total - self.cart.paid_in_part

    @property
    def charged(self) -> Decimal:
        return Decimal(0) if self.fate == "declined" else self.due

    @property
    def completed(self) -> bool:
        """A card that is declined does no harm if nothing is due."""
        return self.fate == "ships" or (self.fate == "declined" and self.due == 0)

    @property
    def refunded(self) -> Decimal:
        return self.charged if self.fate == "cannot be shipped" else Decimal(0)

    @property
    def at_risk(self) -> Decimal:
        kept = self.charged - self.refunded
        return Decimal(0) if self.completed else kept + self.cart.paid_in_part

    @property
    def outcome(self) -> Outcome:
        if self.completed:
            return Outcome.COMPLETED
        return Outcome.NEEDS_ATTENTION if self.at_risk else Outcome.COMPENSATED


@rounds(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller batch says no more about a cart
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.tuples(carts(products=PRODUCTS), FATES), min_size=25, max_size=35))
async def test_a_cart_is_charged_and_refunded_to_its_smallest_unit(
    saga: World, drawn: list[tuple[Cart, str]]
) -> None:
    for product in PRODUCTS:
        saga.receive(product, _PIECES, name=product)
    sent = [ordered(cart, fate) for cart, fate in drawn]
    intake.submit([each.order for each in sent])
    await process_pending_orders(consumer_seconds=0)

    ends, mails = read([each.order["id"] for each in sent]), saga.mails()
    for each in sent:
        order_id = each.order["id"]
        check_money(saga.ledger(order_id), each, ends[order_id])
        if each.completed:
            check_table(text_of(mails[mail_name(order_id, Kind.CONFIRMATION)]), each)
    books = read_books(saga.database_url, await gateway_totals(gateway()))
    assert books.balanced, books.rows


def ordered(cart: Cart, fate: str) -> Sent:
    order = {
        **cart.order,
        "id": f"CART-{uuid.uuid4().hex[:10]}",
        "payment_info": {"method": "credit_card", "card_last4": _CARDS.get(fate, "1234")},
        "shipping_info": {
            **EXAMPLE["shipping_info"],
            "country": "AQ" if fate in {"cannot be shipped", "refund refused"} else "US",
        },
    }
    return Sent(order, cart, fate)


def check_money(payments: list[dict[str, Any]], sent: Sent, end: OrderOutcome) -> None:
    """`payments`: the gateway's own."""
    cart = sent.cart
    assert end.outcome is sent.outcome, (sent, end.reasons)
    charges = [payment for payment in payments if payment["status"] == "succeeded"]
    returned = [sum(refund["amount"] for refund in payment["refunds"]) for payment in payments]
    smallest = 10 ** decimals(cart.currency)
    assert all(back <= payment["amount"] for back, payment in zip(returned, payments, strict=True)), payments
    assert {payment["currency"] for payment in payments} <= {cart.currency}
    assert [payment["amount"] for payment in charges] == ([sent.charged * smallest] if sent.charged else [])
    assert sum(returned) == sent.refunded * smallest

    ours = (end.amount_charged, end.amount_refunded, end.amount_at_risk, end.amount_elsewhere)
    assert ours == (sent.charged, sent.refunded, sent.at_risk, cart.paid_in_part), (sent, ours)


def check_table(mail: str, sent: Sent) -> None:
    """The mail's table adds up to the cart's total, and says what was due."""
    _, items, rest = re.split(r"^-{20,}$", mail, maxsplit=2, flags=re.MULTILINE)
    rows = rest.strip().split("\n\n")[0].splitlines()
    total = next(number for number, row in enumerate(rows) if row.split()[0] == "Total")

    def amount(row: str) -> Decimal:
        digits = re.sub(r"[^0-9-]", "", re.split(r"\s{2,}", row.strip())[-1])
        return Decimal(digits).scaleb(-decimals(sent.cart.currency))

    added = sum(map(amount, [*items.strip().splitlines(), *rows[:total]]), Decimal(0))
    assert added == amount(rows[total]) == sent.cart.total, mail
    if sent.cart.paid_in_part:
        assert amount(rows[-1]) == sent.due, mail
