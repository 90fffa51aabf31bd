"""EasyPost's adapter, by EasyPost's own client over HTTP,
against a server of ours that answers as EasyPost does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from saga.errors import StepError
from shop.orders.order import Order
from shop.settings import Settings
from shop.shipping.carrier import NotOurParcel, Voided
from shop.shipping.easypost.carrier import EasyPostCarrier
from shop.shipping.errors import (
    CarrierMisconfigured,
    CarrierMismatch,
    CarrierRefused,
    CarrierTimeout,
    CarrierUnavailable,
    VoidRefused,
)
from tests.easypost_server import ANOTHERS, EasyPost
from tests.integration.world import an_order

TIMEOUT = 2.0


def make(server: EasyPost, **changes: Any) -> EasyPostCarrier:
    given = {**server.settings, "CARRIER_TIMEOUT_SECONDS": TIMEOUT, **changes}
    s = Settings(_env_file=None, **given)
    assert s.easypost.api_key is not None
    assert s.easypost.sender is not None
    return EasyPostCarrier(s, s.easypost.api_key.get_secret_value(), s.easypost.sender, _installation)


async def _installation() -> str:
    return "0123456789abcdef"


@pytest.fixture
async def carrier(easypost_server: EasyPost) -> AsyncIterator[EasyPostCarrier]:
    made = make(easypost_server)
    yield made
    await made.aclose()
    easypost_server.behave()


def order(order_id: str, **fields: Any) -> Order:
    return Order.model_validate(an_order(order_id, **fields))


async def buy(carrier: EasyPostCarrier, given: Order) -> Any:
    quote = await carrier.quote(given)
    return await carrier.create(given, quote.id, quote.chosen)


async def test_from_quote_to_label_to_void(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    quote = await carrier.quote(order(unique))
    assert {(rate.carrier, rate.service, str(rate.amount)) for rate in quote.rates} >= {
        ("USPS", "GroundAdvantage", "5.93")
    }
    assert easypost_server.labels(unique) == [], "a quote buys nothing"

    shipment = await carrier.create(order(unique), quote.id, quote.chosen)
    (label,) = easypost_server.labels(unique)
    assert (shipment.tracking_number, shipment.carrier, shipment.service) == (
        label["tracking_code"],
        "USPS",
        "GroundAdvantage",
    ), "the cheapest"
    assert (await carrier.label(order(unique), shipment.id, shipment.tracking_number)).startswith(b"%PDF-")

    assert await carrier.void(order(unique), shipment.id) is Voided.VOIDED
    assert await carrier.void(order(unique), shipment.id) is Voided.VOIDED, "once more changes nothing"
    assert easypost_server.good_labels(unique) == 0
    assert (await carrier.create(order(unique), quote.id, quote.chosen)).voided
    assert len(easypost_server.labels(unique)) == 1


@pytest.mark.parametrize(
    "order_id", ["plain", "a/b?c=d#e", "заказ 5", "shp_looks_like_an_id", "../x", "x" * 200]
)
async def test_its_reference_is_ours_alone(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str, order_id: str
) -> None:
    order_id = f"{unique}{order_id}"[:200]
    quote = await carrier.quote(order(order_id))
    (made,) = easypost_server.shipments(order_id)
    assert made["id"] == quote.id
    assert made["reference"].startswith("0123456789abcdef-")
    assert len(made["reference"]) <= 80
    assert made["reference"].isascii()


async def test_another_shop_s_shipment_is_neither_used_nor_voided(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    """Also if its id is in our journal, where an earlier version has put it."""
    theirs = easypost_server.sell_to_another_shop(unique)
    with pytest.raises(NotOurParcel):
        await carrier.create(order(unique), theirs["id"], None)
    with pytest.raises(VoidRefused, match="different address"):
        await carrier.void(order(unique), theirs["id"])
    assert easypost_server.good_labels(unique) == 1


async def test_a_shipment_that_an_earlier_version_made_is_known_by_its_address(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    """Carriers change how an address is written."""
    given = order(unique)
    to = given.shipping_info
    assert to is not None
    sold = easypost_server.sell_to_another_shop(
        unique,
        name=str(to.name).upper(),
        street1=f"{to.address.upper()}.",
        city=to.city.upper(),
        state=str(to.state),
        zip=str(to.zip),
        country=to.country,
    )
    assert (await carrier.create(given, sold["id"], None)).tracking_number == sold["tracking_code"]
    assert await carrier.void(given, sold["id"]) is Voided.VOIDED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", ANOTHERS),
        ("reference", ANOTHERS),
        ("to_address", ANOTHERS),
        ("to_address.zip", "10001"),
        ("tracking_code", ANOTHERS),
        ("tracker.tracking_code", ANOTHERS),
        ("refund_status", "submitted"),
        ("postage_label", None),
        ("postage_label.label_pdf_url", "https://elsewhere.example/label.pdf"),
    ],
)
async def test_what_may_be_another_s_label_is_not_printed(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str, path: str, value: Any
) -> None:
    easypost_server.sell_to_another_shop(f"{unique}-other")
    bought = await buy(carrier, order(unique))
    easypost_server.lie(unique, "get", path, value)
    with pytest.raises(CarrierUnavailable):
        await carrier.label(order(unique), bought.id, bought.tracking_number)
    easypost_server.behave()
    assert (await carrier.label(order(unique), bought.id, bought.tracking_number)).startswith(b"%PDF-")


async def test_a_carrier_may_add_to_a_zip_code(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    for move in ("create", "get", "buy"):
        easypost_server.lie(unique, move, "to_address.zip", "90210-1234")
    assert (await buy(carrier, order(unique))).tracking_number == easypost_server.labels(unique)[0][
        "tracking_code"
    ]


async def test_a_carrier_may_write_an_address_its_own_way(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    to = an_order(unique)["shipping_info"] | {"address2": "Apt. 4-b"}
    for number, (path, value) in enumerate([("street2", "APT 4 B"), ("city", "ANYTOWN."), ("state", "ca")]):
        given = order(f"{unique}-{number}", shipping_info=to)
        easypost_server.lie(given.id, "get", f"to_address.{path}", value)
        await buy(carrier, given)
        assert easypost_server.good_labels(given.id) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("street2", "Apt. 5"),
        ("street2", None),
        ("city", "Otherville"),
        ("city", None),
        ("state", "NV"),
        ("zip", "90211"),
        ("zip", "902101"),
        ("zip", "90210-12345"),
        ("zip", "90210-abcd"),
        ("zip", "9021"),
        ("zip", None),
    ],
)
async def test_no_label_is_bought_to_another_address(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str, path: str, value: str | None
) -> None:
    given = order(unique, shipping_info=an_order(unique)["shipping_info"] | {"address2": "Apt. 4-b"})
    quote = await carrier.quote(given)
    easypost_server.lie(unique, "get", f"to_address.{path}", value)
    with pytest.raises(CarrierMismatch):
        await carrier.create(given, quote.id, quote.chosen)
    assert easypost_server.labels(unique) == []


@pytest.mark.parametrize(
    ("path", "value"), [("rate", "5000.00"), ("rate", "0.01"), ("currency", "EUR"), ("id", "rate_0")]
)
async def test_no_label_is_bought_at_another_price_than_was_quoted(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str, path: str, value: str
) -> None:
    quote = await carrier.quote(order(unique))
    easypost_server.lie(unique, "get", f"rates.1.{path}", value)
    with pytest.raises(CarrierMismatch):
        await carrier.create(order(unique), quote.id, quote.chosen)
    assert easypost_server.labels(unique) == []
    easypost_server.behave()
    assert (await carrier.create(order(unique), quote.id, quote.chosen)).amount == quote.chosen.amount


async def test_a_label_reported_void_or_missing_is_voided_again(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    for number, (path, value) in enumerate([("refund_status", "refunded"), ("postage_label", None)]):
        given = order(f"{unique}-{number}")
        bought = await buy(carrier, given)
        easypost_server.lie(given.id, "get", path, value)
        with suppress(VoidRefused):  # it contradicts itself: for a person
            await carrier.void(given, bought.id)
        assert easypost_server.good_labels(given.id) == 0


async def test_an_address_beyond_ascii_is_sent_in_ascii(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    await carrier.quote(order(unique, customer_email="pat@straße.example"))
    assert easypost_server.shipments(unique)[0]["to_address"]["email"] == "pat@xn--strae-oqa.example"


async def test_buys_once_however_often_it_is_asked(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    quote = await carrier.quote(order(unique))
    bought = await asyncio.gather(*(carrier.create(order(unique), quote.id, quote.chosen) for _ in range(8)))
    assert len({shipment.tracking_number for shipment in bought}) == 1
    assert len(easypost_server.labels(unique)) == 1


async def test_looks_first_at_a_carrier_that_would_sell_twice(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    easypost_server.misbehave("forget", "postage")
    quote = await carrier.quote(order(unique))
    for _ in range(3):
        await carrier.create(order(unique), quote.id, quote.chosen)
    assert len(easypost_server.labels(unique)) == 1


@pytest.mark.parametrize(
    "fault",
    ["silent_after", "lost_after", "error_500_after", "rubbish_after", "nonsense_after", "no_response_after"],
)
async def test_a_label_that_was_bought_without_a_clear_answer_is_found(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str, fault: str
) -> None:
    quote = await carrier.quote(order(unique))
    easypost_server.misbehave("buy", fault, order_id=unique, seconds=1.5 * TIMEOUT)
    with pytest.raises(CarrierUnavailable) as unclear:
        await carrier.create(order(unique), quote.id, quote.chosen)
    assert unclear.value.retryable
    assert isinstance(unclear.value, CarrierTimeout) == (fault == "silent_after")

    assert len(easypost_server.labels(unique)) == 1, "it was bought"
    shipment = await carrier.create(order(unique), quote.id, quote.chosen)
    assert shipment.tracking_number == easypost_server.labels(unique)[0]["tracking_code"]
    assert len(easypost_server.labels(unique)) == 1


@pytest.mark.parametrize(
    ("move", "fault", "error", "retryable"),
    [
        ("create", "error_500", CarrierUnavailable, True),
        ("create", "error_503", CarrierUnavailable, True),
        ("create", "lost", CarrierUnavailable, True),
        ("create", "rubbish", CarrierUnavailable, True),
        ("create", "nonsense", CarrierUnavailable, True),
        ("create", "error_429", CarrierUnavailable, True),
        ("create", "silent", CarrierTimeout, True),
        ("create", "error_402", CarrierUnavailable, True),
        ("buy", "error_422", CarrierRefused, False),
        ("buy", "no_response", CarrierUnavailable, True),
    ],
)
async def test_each_failure_has_its_type(
    carrier: EasyPostCarrier,
    easypost_server: EasyPost,
    unique: str,
    move: str,
    fault: str,
    error: type[StepError],
    retryable: bool,
) -> None:
    easypost_server.misbehave(move, fault, order_id=unique, seconds=1.5 * TIMEOUT)
    begin = time.monotonic()
    with pytest.raises(error) as raised:
        await buy(carrier, order(unique))
    assert time.monotonic() - begin < 6 * TIMEOUT
    assert raised.value.retryable is retryable
    assert (raised.value.retry_after is not None) == (fault == "error_429"), (
        "a limit of requests is waited for, not undone"
    )
    assert easypost_server.labels(unique) == []
    assert raised.value.__context__ is None, "the client's own error may hold the key or the address"


async def test_a_key_that_is_not_accepted_names_its_setting_and_is_not_shown(
    easypost_server: EasyPost, unique: str
) -> None:
    wrong = make(easypost_server, EASYPOST_API_KEY="EZTK_PLANTED_PLANTED")
    with pytest.raises(CarrierMisconfigured, match="EASYPOST_API_KEY") as refused:
        await wrong.quote(order(unique))
    assert "PLANTED" not in f"{refused.value} {refused.value.details()}"
    assert not refused.value.retryable
    await wrong.aclose()


async def test_an_unserved_destination_is_a_refusal_with_its_reason(
    carrier: EasyPostCarrier, unique: str
) -> None:
    with pytest.raises(CarrierRefused, match="Destination country is not served"):
        await carrier.quote(order(unique, country="AQ"))
    with pytest.raises(CarrierRefused, match=r"Invalid address.*street1"):
        await carrier.quote(order(unique, shipping_info={"address": "", "city": "X", "country": "US"}))


async def test_the_parcel_is_described(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    sent = order(
        unique,
        shipping_info={
            "name": "王小明",
            "address": "建国路88号",
            "city": "北京",
            "zip": "100022",
            "country": "cn",
        },
    )
    await carrier.quote(sent)
    (made,) = easypost_server.shipments(unique)
    assert (made["to_address"]["name"], made["to_address"]["country"]) == ("王小明", "CN")
    assert made["parcel"]["weight"] == 16
    (item,) = made["customs_info"]["customs_items"]
    assert (item["quantity"], item["value"], item["origin_country"]) == (1, "999.99", "US")


async def test_light_goods_weigh_something_and_no_more_than_their_parcel(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    """A sticker of a gram, and lines whose weights are rounded up."""
    abroad = {"address": "1 Rue", "city": "Paris", "zip": "75001", "country": "FR"}
    for n, grams in enumerate([[1], [7, 7, 7]]):
        order_id = f"{unique}-{n}"
        items = [
            {"product_id": f"P{i}", "quantity": 1, "price": "1.00", "weight_grams": each}
            for i, each in enumerate(grams)
        ]
        await carrier.quote(order(order_id, items=items, shipping_info=abroad))
        (made,) = easypost_server.shipments(order_id)
        declared = [item["weight"] for item in made["customs_info"]["customs_items"]]
        assert min(declared) > 0
        assert 0 < sum(declared) <= made["parcel"]["weight"] + 1e-9


async def test_the_whole_address_reaches_the_carrier(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    address = {
        "address": "123 Main St",
        "address2": "Apt 5",
        "city": "Anytown",
        "state": "CA",
        "zip": "90210",
        "country": "US",
    }
    await carrier.quote(order(unique, shipping_info={**address, "phone": "+1 555 123 4567"}))
    (made,) = easypost_server.shipments(unique)
    sent_address = {
        name: made["to_address"].get(name)
        for name in ("street1", "street2", "city", "state", "zip", "country", "phone")
    }
    assert list(sent_address.values()) == [
        "123 Main St",
        "Apt 5",
        "Anytown",
        "CA",
        "90210",
        "US",
        "+1 555 123 4567",
    ]


async def test_the_service_can_be_chosen(easypost_server: EasyPost, unique: str) -> None:
    chosen = make(easypost_server, CARRIER_SERVICE="usps priority")
    assert (await buy(chosen, order(unique))).service == "Priority"
    await chosen.aclose()
    nothing = make(easypost_server, CARRIER_SERVICE="Pigeon")
    with pytest.raises(CarrierRefused):
        await nothing.quote(order(f"{unique}-2"))
    await nothing.aclose()


async def test_a_parcel_that_was_handed_over_is_not_voided(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    shipment = await buy(carrier, order(unique))
    easypost_server.scan(unique)
    assert await carrier.void(order(unique), shipment.id) is Voided.HANDED_OVER
    assert easypost_server.good_labels(unique) == 1


async def test_voiding_finds_out_what_there_is(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    assert await carrier.void(order(unique), "shp_nobody") is Voided.NOT_BOUGHT
    quote = await carrier.quote(order(unique))
    assert await carrier.void(order(unique), quote.id) is Voided.NOT_BOUGHT
    await carrier.create(order(unique), quote.id, quote.chosen)
    easypost_server.misbehave("refund", "lost_after", order_id=unique)
    with pytest.raises(CarrierUnavailable):
        await carrier.void(order(unique), quote.id)
    assert await carrier.void(order(unique), quote.id) is Voided.VOIDED


async def test_a_label_that_is_not_taken_back_is_for_a_person(
    carrier: EasyPostCarrier, easypost_server: EasyPost, unique: str
) -> None:
    shipment = await buy(carrier, order(unique))
    easypost_server.misbehave("forget", "refunds")
    with pytest.raises(VoidRefused, match="rejected") as refused:
        await carrier.void(order(unique), shipment.id)
    assert not refused.value.retryable


async def test_calls_at_once_are_bounded(easypost_server: EasyPost, unique: str) -> None:
    """And one that is given up does not keep the others waiting for ever."""
    narrow = make(easypost_server, CARRIER_CONCURRENCY=2)
    easypost_server.misbehave("create", "silent", times=2, seconds=1.2 * TIMEOUT)
    ends = await asyncio.gather(
        *(narrow.quote(order(f"{unique}-{n}")) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(end, CarrierTimeout) for end in ends) == 2
    assert sum(not isinstance(end, BaseException) for end in ends) == 6
    await narrow.aclose()
