"""What workers do: the flows' own functions, and what people do from Python."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from flows.cancel_order import cancel_order
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.inventory.expiry import expire_reservations
from shop.orders.intake import submit_one
from shop.review.cancel import ask_to_cancel
from tests.model.orders import order

Story = Callable[[], Coroutine[Any, Any, Any]]


def story(name: str, order_id: str, kind: str) -> Story:
    """By its name; of this order, if it is about one."""
    content = order(order_id, kind)
    stories: dict[str, Story] = {
        "order": lambda: process_order.fn(content),  # type: ignore[arg-type]
        "consumer": lambda: process_pending_orders.fn(consumer_seconds=0, batch_size=10),
        "recovery": lambda: housekeeping.fn(only_due=True),
        "retry": housekeeping.fn,
        "cancel": lambda: cancel_order.fn(order_id, "changed their mind", "ann", True),
        "ask": lambda: ask_to_cancel(order_id, reason="changed their mind", requested_by="bob"),
        "expiry": expire_reservations,
        "customer": lambda: submit_one(content),
    }
    return stories[name]
