"""What the writer of a confirmation may see, and nothing else.

This is a whitelist: a new field of the order reaches a language model only when it is added here. The customer's
notes, the card's digits and the payment token never do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from shop.money import show
from shop.order import Order
from shop.plain import one_line
from shop.settings import Settings

NOBODY = "Valued Customer"
"""How a customer is addressed whose order names nobody."""

_METHODS = {
    "credit_card": "credit card",
    "debit_card": "debit card",
    "paypal": "PayPal",
    "apple_pay": "Apple Pay",
    "google_pay": "Google Pay",
}
_METHOD_NAME = re.compile(r"[A-Za-z]+([_ -][A-Za-z]+){0,3}")


@dataclass(frozen=True, slots=True)
class ItemFact:
    """One line of the order, as the customer may read it."""

    name: str
    quantity: int
    price: Decimal
    """Of one piece."""
    currency: str

    def __str__(self) -> str:
        line_total = show(self.price * self.quantity, self.currency)
        return f"{self.quantity} x {self.name}, {show(self.price, self.currency)} each, {line_total} together"


@dataclass(frozen=True, slots=True)
class ConfirmationFacts:
    """All that a confirmation is written from. Every text is one clean line, `order_details` is one line per item."""

    customer_name: str
    order_id: str
    order_details: str
    total: str
    items: tuple[ItemFact, ...]
    item_count: int
    """Pieces, not lines."""
    estimated_delivery: str
    payment_method: str
    shipping_address: str
    tone: str

    @property
    def personal(self) -> bool:
        """Whether the customer's name is known."""
        return self.customer_name != NOBODY


def facts_of(order: Order, settings: Settings) -> ConfirmationFacts:
    """The facts of this order."""
    currency = order.currency
    items = tuple([ItemFact(one_line(item.name) or one_line(item.product_id), item.quantity, item.price, currency) for item in order.items])
    return ConfirmationFacts(
        customer_name=order.addressee or NOBODY,
        order_id=one_line(order.id),
        order_details="\n".join([f"{item.quantity} x {item.name}" for item in items]),
        total=show(order.total_amount, currency),
        items=items,
        item_count=sum([item.quantity for item in items]),
        estimated_delivery=settings.estimated_delivery,
        payment_method=_method(order),
        shipping_address=_address(order),
        tone=settings.confirmation_tone,
    )


def inputs_of(facts: ConfirmationFacts, mistakes: Sequence[str] = ()) -> dict[str, str | int]:
    """The facts as the language model is given them; `mistakes` are those of its first attempt."""
    return {
        "customer_name": facts.customer_name,
        "order_id": facts.order_id,
        "order_details": facts.order_details,
        "items": "\n".join(map(str, facts.items)),
        "item_count": facts.item_count,
        "total": facts.total,
        "estimated_delivery": facts.estimated_delivery,
        "payment_method": facts.payment_method,
        "shipping_address": facts.shipping_address,
        "tone": facts.tone,
        "mistakes": "\n".join(mistakes) or "none",
    }


def _method(order: Order) -> str:
    """The method's name. Letters only: a card number typed into the wrong field is not a name."""
    if order.payment_info is None:
        return "not given"
    method = order.payment_info.method
    known = _METHODS.get(method)
    if known:
        return known
    return method.replace("_", " ") if len(method) <= 40 and _METHOD_NAME.fullmatch(method) else "other"


def _address(order: Order) -> str:
    to = order.shipping_info
    if to is None:
        return ""
    town = " ".join([part for part in (to.city, to.state, to.zip) if part])
    parts = [to.name or order.customer_name, to.address, to.address2, town, to.country]
    return ", ".join([line for part in parts if (line := one_line(part))])
