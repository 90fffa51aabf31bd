"""The order's facts in a confirmation: one text per slot, in the language and format of the mail.

A language model sees none of them; of an order it gets only the result of `inputs_of`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from shop.notifications.language import Language
from shop.orders.order import Order
from shop.orders.parts import METHODS
from shop.settings import Settings
from shop.shipping.settings import ShippingSettings
from shop.text.sanitize import one_line

_SHOWN = 10
"""Limits the lines of the order that `{items}` names; the mail's table has all of them."""
_METHOD_NAME = re.compile(r"[A-Za-z]+([_ -][A-Za-z]+){0,3}")
_KNOWN_METHODS = frozenset(METHODS)


def slot_values(order: Order, settings: Settings, language: Language) -> dict[str, str]:
    """Returns the text for each slot: one line each, without control characters."""
    return {
        "customer_name": order.addressee or language.say("nobody"),
        "order_id": order.number,
        "items": _items(order, language),
        "total": language.money(order.total_amount, order.currency),
        "payment_method": _method(order, language),
        "address": _address(order) or language.say("confirmation.your_address"),
        "delivery": _delivery(settings, language),
        "tracking": language.say("confirmation.tracking"),
    }


def inputs_of(
    order: Order, settings: Settings, language: Language, mistakes: Sequence[str] = ()
) -> dict[str, str]:
    """Returns the language model's inputs. `mistakes` are the reasons why its first text was refused."""
    pieces = sum([item.quantity for item in order.items])
    return {
        "language": language.english_name,
        "tone": settings.confirmation.tone,
        "order_size": "one item" if pieces == 1 else "several items",
        "mistakes": "\n".join(mistakes) or "none",
    }


def _items(order: Order, language: Language) -> str:
    shown = [
        f"{item.quantity} x {one_line(item.name) or one_line(item.product_id)}"
        for item in order.items[:_SHOWN]
    ]
    if (more := len(order.items) - len(shown)) > 0:
        shown.append(language.say("confirmation.more_items", count=more))
    return ", ".join(shown)


def _method(order: Order, language: Language) -> str:
    """Returns the method's name. Letters only: a card number typed into the wrong field is not a name."""
    if order.payment_info is None:
        return language.say("payment_method.not_given")
    method = order.payment_info.method
    if method in _KNOWN_METHODS:
        return language.say(f"payment_method.{method}")
    named = len(method) <= 40 and _METHOD_NAME.fullmatch(method)
    return method.replace("_", " ") if named else language.say("payment_method.other")


def _address(order: Order) -> str:
    to = order.shipping_info
    if to is None:
        return ""
    town = " ".join([part for part in (to.city, to.state, to.zip) if part])
    parts = [to.name or order.customer_name, to.company, to.address, to.address2, town, to.country]
    return ", ".join([line for part in parts if (line := one_line(part))])


def _delivery(settings: Settings, language: Language) -> str:
    usual = ShippingSettings.model_fields["estimated_delivery"].default
    return (
        language.say("confirmation.usual_delivery")
        if settings.shipping.estimated_delivery == usual
        else one_line(settings.shipping.estimated_delivery)
    )
