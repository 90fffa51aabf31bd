"""The embedded carrier as a `Carrier`, on a real database, and the labels of its parcels."""

from __future__ import annotations

import asyncio

import pytest

from shop.orders.order import Order
from shop.settings import settings
from shop.shipping.carrier import Carrier, Status, Voided
from shop.shipping.carriers import carrier
from shop.shipping.errors import CarrierRefused
from shop.shipping.labels.stored import fetch_label
from tests.integration.domain import Shop, an_order

pytest_plugins = ["tests.integration.domain_fixtures"]


def order(order_id: str = "A", country: str = "US") -> Order:
    given = an_order(order_id)
    return Order.model_validate({**given, "shipping_info": {**given["shipping_info"], "country": country}})


async def test_from_quote_to_void(shop: Shop) -> None:
    await shop.store(an_order("A"))
    embedded: Carrier = carrier()
    assert embedded.name == "embedded"
    quote = await embedded.quote(order())
    booked = await asyncio.gather(*(embedded.create(order(), quote.id, quote.chosen) for _ in range(5)))
    assert len({shipment.tracking_number for shipment in booked}) == 1
    assert await shop.count("shipment") == 1
    shipment = booked[0]
    assert (await embedded.label(order(), shipment.id, shipment.tracking_number)).startswith(b"%PDF-")
    assert (await embedded.track(shipment.id)).status is Status.BOOKED
    assert await embedded.void(order(), shipment.id) is Voided.VOIDED
    assert await embedded.void(order(), shipment.id) is Voided.VOIDED
    tracking = await embedded.track(shipment.id)
    assert (tracking.status, [event.status for event in tracking.events]) == (
        Status.VOIDED,
        ["booked", "voided"],
    )
    assert (await embedded.create(order(), quote.id, quote.chosen)).voided


async def test_what_it_refuses_and_does_not_know(shop: Shop) -> None:
    embedded = carrier()
    with pytest.raises(CarrierRefused):
        await embedded.quote(order(country="AQ"))
    assert await embedded.void(order(), "CA000000005US") is Voided.NOT_BOUGHT
    with pytest.raises(CarrierRefused, match="no such shipment"):
        await embedded.label(order(), "CA000000005US", "CA000000005US")
    with pytest.raises(CarrierRefused, match="no such shipment"):
        await embedded.track("CA000000005US")


@pytest.mark.parametrize(
    "shipped",
    [{"tracking_number": "CA473124829US"}, {"tracking_number": "CA473124829US", "booked_at": "embedded"}],
)
async def test_nothing_is_fetched_of_it(shop: Shop, shipped: dict[str, str]) -> None:
    """Also for a message from before there were other carriers."""
    await asyncio.to_thread(fetch_label, order(), shipped, settings())
    assert not settings().label_dir.exists()
