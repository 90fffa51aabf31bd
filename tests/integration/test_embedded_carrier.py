"""The labels of the embedded carrier's parcels, on a real database."""

from __future__ import annotations

import asyncio

import pytest

from shop.orders.order import Order
from shop.settings import settings
from shop.shipping.labels.stored import fetch_label
from tests.integration.domain import Shop, an_order

pytest_plugins = ["tests.integration.domain_fixtures"]


def order(order_id: str = "A", country: str = "US") -> Order:
    given = an_order(order_id)
    return Order.model_validate({**given, "shipping_info": {**given["shipping_info"], "country": country}})


@pytest.mark.parametrize(
    "shipped",
    [{"tracking_number": "CA473124829US"}, {"tracking_number": "CA473124829US", "booked_at": "embedded"}],
)
async def test_nothing_is_fetched_of_it(shop: Shop, shipped: dict[str, str]) -> None:
    """Also for a message from before there were other carriers."""
    await asyncio.to_thread(fetch_label, order(), shipped, settings())
    assert not settings().label_dir.exists()
