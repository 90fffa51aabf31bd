"""The writer that always works: no language model, no network, microseconds."""

from __future__ import annotations

from collections.abc import Mapping

from shop.confirmation.confirmation import ELEMENTS, TEMPLATE, Confirmation, finish
from shop.confirmation.facts import slot_values
from shop.notifications.language import Language, language_of
from shop.orders.order import Order
from shop.settings import Settings


def write(values: Mapping[str, str], language: Language) -> dict[str, str]:
    """The four texts of the language's file with their slots filled. They hold when the mail is sent: after the parcel is booked, with
    its tracking number below them."""
    return {name: language.say(f"confirmation.{name}", **values) for name in ELEMENTS}


def template_confirmation(order: Order, settings: Settings) -> Confirmation:
    """The whole confirmation from the template."""
    language = language_of(order.shipping_info.country if order.shipping_info else None, settings)
    texts = write(slot_values(order, settings, language), language)
    return finish(texts, TEMPLATE, personal=bool(order.addressee))
