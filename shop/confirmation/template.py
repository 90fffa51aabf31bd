"""The template, which is always available: no language model, no network."""

from __future__ import annotations

from collections.abc import Mapping

from shop.confirmation.confirmation import ELEMENTS, TEMPLATE, Confirmation, finish
from shop.confirmation.facts import slot_values
from shop.notifications.language import Language, language_of
from shop.orders.order import Order
from shop.settings import Settings


def write(values: Mapping[str, str], language: Language) -> dict[str, str]:
    """Fills the slots of the four texts in the language's file. The mail is sent after the parcel is
    booked and shows the tracking number below them."""
    return {name: language.say(f"confirmation.{name}", **values) for name in ELEMENTS}


def template_confirmation(order: Order, settings: Settings) -> Confirmation:
    """Makes the whole confirmation from the template."""
    language = language_of(order, settings)
    texts = write(slot_values(order, settings, language), language)
    return finish(
        order_texts(order, texts, language),
        TEMPLATE,
        personal=bool(order.addressee),
        tracked=order.needs_shipment,
    )


def order_texts(order: Order, texts: Mapping[str, str], language: Language) -> Mapping[str, str]:
    """Returns the texts for this order: without a delivery and a tracking number if nothing is shipped."""
    if order.needs_shipment:
        return texts
    return {**texts, "next_steps": language.say("confirmation.digital"), "tracking_info": ""}
