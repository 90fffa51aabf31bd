"""The writer that always works: no language model, no network, microseconds."""

from __future__ import annotations

from shop.confirmation.confirmation import TEMPLATE, Confirmation, finish
from shop.confirmation.facts import ConfirmationFacts, facts_of
from shop.order import Order
from shop.settings import Settings

_SHOWN = 10
"""Lines that the summary names; the mail's table has them all."""


def write(facts: ConfirmationFacts) -> dict[str, str]:
    """The four texts. Says nothing that is not a fact of the order, as it is when the mail leaves: after the parcel is booked, with its
    tracking number below these texts."""
    pieces = "1 item" if facts.item_count == 1 else f"{facts.item_count} items"
    lines = [f"{item.quantity} x {item.name}" for item in facts.items[:_SHOWN]]
    if len(facts.items) > _SHOWN:
        lines.append(f"and {len(facts.items) - _SHOWN} more")
    destination = f" to {facts.shipping_address}" if facts.shipping_address else ""
    return {
        "greeting": f"Hello {facts.customer_name},\n\nthank you for your order! We have received it, and it is confirmed.",
        "order_summary": (
            f"Your order {facts.order_id} has {pieces}: {', '.join(lines)}. "
            f"The total is {facts.total}, payment method: {facts.payment_method}."
        ),
        "next_steps": f"We are packing your order and will send it{destination}. Estimated delivery: {facts.estimated_delivery}.",
        "tracking_info": "You can follow your parcel: its tracking number is below.",
    }


def template_confirmation(order: Order, settings: Settings) -> Confirmation:
    """The whole confirmation from the template."""
    facts = facts_of(order, settings)
    return finish(write(facts), facts, TEMPLATE)
