"""Orders for the tests of crashes: each a path through the saga, with the one right end of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from shop.orders.outcomes import Outcome
from tests.integration.world import an_order

PRICE = Decimal("999.99")


@dataclass(frozen=True)
class Scenario:
    """What is ordered, and how it ends, however often its workers die."""

    name: str
    outcome: Outcome
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    changes: dict[str, Any] = field(default_factory=dict)
    returned: bool = False
    """Shipped, and then sent back."""
    by_hand: Decimal = Decimal(0)
    """What a person gave back past the gateway."""
    tidy: bool = False
    """No payment is left that could still be charged."""
    accepted: bool = False
    """There is a payment for an unknown order (`stranger`), and a person accepts that."""
    adopts: bool = False
    """It is paid before it comes, at the gateway: the payment of `checkout` becomes its own."""
    elsewhere: Decimal = Decimal(0)
    """What others take for it."""
    digital: bool = False
    about: tuple[str, ...] = ()
    """Words of the points that are tried on the ways of this scenario also where another leads to them; only
    these."""
    charges: int = 1
    """How often it is charged, if it is."""
    tries: int = 1
    fail_at: str | None = None
    """A point at which the first worker's code raises."""

    @property
    def at_risk(self) -> Decimal:
        """What a person has to decide about."""
        left = self.charged - self.refunded + self.elsewhere
        return left if self.outcome is Outcome.NEEDS_ATTENTION else Decimal(0)

    @property
    def parcel(self) -> bool:
        """Whether a parcel has left."""
        return (self.outcome is Outcome.COMPLETED or self.returned) and not self.digital

    @property
    def mail_kinds(self) -> set[str]:
        """The kinds of mails that its customer gets."""
        due = {
            "confirmation": self.outcome is Outcome.COMPLETED or self.returned,
            "refund": self.refunded + self.by_hand > 0
            and self.outcome not in {Outcome.COMPLETED, Outcome.NEEDS_ATTENTION},
            "payment_failed": self.changes.get("card") == "0000",
            "out_of_stock": self.outcome is Outcome.OUT_OF_STOCK,
            "awaiting_payment": (self.changes.get("payment_info") or {}).get("method") == "bank_transfer",
        }
        return {kind for kind, is_due in due.items() if is_due}

    def order(self, order_id: str) -> dict[str, Any]:
        return an_order(order_id, **self.changes)


_PART = Decimal(300)
_DIGITAL = {
    "items": [{"product_id": "PROD-001", "quantity": 1, "price": str(PRICE), "digital": True}],
    "shipping_info": None,
}
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("completes", Outcome.COMPLETED, PRICE),
        Scenario("cannot be shipped", Outcome.COMPENSATED, PRICE, PRICE, {"country": "AQ"}),
        Scenario("declined", Outcome.COMPENSATED, changes={"card": "0000"}),
        Scenario("sold out", Outcome.OUT_OF_STOCK, changes={"product": "OUT-OF-STOCK"}),
        Scenario("invalid", Outcome.REJECTED, changes={"total_amount": "1.00"}),
        Scenario("answer lost", Outcome.COMPLETED, PRICE, changes={"card": "0341"}),
        Scenario("refund refused", Outcome.NEEDS_ATTENTION, PRICE, changes={"card": "0259", "country": "AQ"}),
        Scenario("sent back", Outcome.COMPENSATED, PRICE, PRICE, returned=True),
        Scenario("given up", Outcome.COMPENSATED),
        Scenario("tried again", Outcome.NEEDS_ATTENTION, PRICE, changes={"card": "0259", "country": "AQ"}),
        Scenario(
            "settled by a person",
            Outcome.COMPENSATED,
            PRICE,
            changes={"card": "0259", "country": "AQ"},
            by_hand=PRICE,
        ),
        Scenario("charged after its end", Outcome.COMPENSATED, PRICE, PRICE, {"card": "0000"}, tidy=True),
        Scenario("paid twice by half", Outcome.COMPLETED, PRICE, tidy=True),
        Scenario("cancelled with its label", Outcome.COMPENSATED, PRICE, PRICE),
        Scenario("notified of a late charge", Outcome.COMPENSATED, PRICE, PRICE, {"card": "0000"}, tidy=True),
        Scenario("cancelled with its stock", Outcome.COMPENSATED, PRICE, PRICE),
        Scenario("beside a stranger's payment", Outcome.COMPLETED, PRICE, accepted=True),
        # Declined; then a late request of the first try is charged, and the customer gives another card.
        Scenario(
            "second try",
            Outcome.COMPLETED,
            2 * PRICE,
            PRICE,
            {"card": "0000"},
            tidy=True,
            charges=2,
            tries=2,
        ),
        Scenario(
            "fails past the pivot", Outcome.COMPLETED, PRICE, fail_at="before the record of notify_customer"
        ),
        Scenario("paid in the shop", Outcome.COMPLETED, PRICE, adopts=True),
        Scenario(
            "paid in the shop, cannot be shipped",
            Outcome.COMPENSATED,
            PRICE,
            PRICE,
            {"country": "AQ"},
            adopts=True,
            about=("payment",),
        ),
        Scenario(
            "paid elsewhere, cannot be shipped",
            Outcome.NEEDS_ATTENTION,
            changes={
                "country": "AQ",
                "payment_info": {"method": "already_paid", "reference": "paypal-77"},
            },
            elsewhere=PRICE,
        ),
        Scenario(
            "paid in part, cannot be shipped",
            Outcome.NEEDS_ATTENTION,
            PRICE - _PART,
            PRICE - _PART,
            {
                "country": "AQ",
                "part_payments": [{"method": "gift_card", "amount": str(_PART), "reference": "GC-1"}],
            },
            elsewhere=_PART,
        ),
        Scenario(
            "paid by transfer",
            Outcome.COMPLETED,
            changes={"payment_info": {"method": "bank_transfer"}},
            elsewhere=PRICE,
            about=("payment", "postponing"),
        ),
        Scenario("free", Outcome.COMPLETED, changes={"price": "0", "payment_info": None}),
        Scenario("digital", Outcome.COMPLETED, PRICE, changes=_DIGITAL, digital=True),
    )
}


def checkout(order_id: str) -> str:
    """The id under which the shop's own checkout took the money at the gateway, before there was an order."""
    return f"{order_id}-CHECKOUT"


def stranger(order_id: str) -> str:
    """The id that somebody has paid for, of no order."""
    return f"{order_id}-STRANGER"


AT_STRIPE: dict[str, str | None] = {
    "completes": "pm_card_visa",
    "cannot be shipped": "pm_card_visa",
    "paid in the shop": None,
    "paid in the shop, cannot be shipped": None,
    "paid elsewhere, cannot be shipped": None,
    "paid in part, cannot be shipped": "pm_card_visa",
    "free": None,
    "digital": "pm_card_visa",
    "declined": "pm_card_chargeCustomerFail",
    "sent back": "pm_card_visa",
    "given up": "pm_card_visa",
}
"""Those that a Stripe server can act out, and by which of its test PaymentMethods; None charges
none."""
