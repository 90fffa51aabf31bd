"""What is stored of what somebody sent: never a card number,
always JSON that the database takes, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import random
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel

from shop.orders import fingerprints
from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import (
    CARD_REMOVED,
    CODE_REMOVED,
    CONTROL,
    HAS_REMOVED,
    MISNAMED,
    REMOVED,
    TOO_DEEP,
    TOO_LARGE,
    TOO_LONG,
    Content,
    take_in,
)
from shop.orders.names import MAX_ORDER_ID
from shop.orders.order import EXAMPLE, Order
from shop.orders.parts import Item, PaymentInfo, ShippingInfo
from shop.text.sanitize import one_line

relaxed = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VISA = "4111111111111111"
CARDS = [
    VISA,
    "4000000000000000006",  # 19 digits
    "378282246310005",  # 15
    "5555555555554444",
    "2223003122003222",
    "6011111111111117",
    "3530111333300000",
    "6304000000000000000",
]
DINERS = "30569309025904"


def digits(text: str) -> str:
    """All digits, whatever stands between them."""
    return re.sub(r"\D", "", text)


def check_nothing_of(card: str, order: object) -> Content:
    """Takes the order in, and sees to it that no part of the card is left."""
    content = take_in(order)
    assert card[:12] not in digits(content.text)
    return content


def check_refused(card: str, order: object) -> Content:
    """And that the order is not taken for a good one."""
    content = check_nothing_of(card, order)
    assert REMOVED in content.text
    assert HAS_REMOVED in json.loads(content.text)
    return content


def check_taken(order: object) -> dict[str, Any]:
    """The content, of an order from which nothing had to be refused."""
    content: dict[str, Any] = json.loads(take_in(order).text)
    assert HAS_REMOVED not in content
    Order.model_validate(content)
    return content


def grouped(card: str, separator: str) -> str:
    return separator.join(card[i : i + 4] for i in range(0, len(card), 4))


def paid_with(**fields: Any) -> dict[str, Any]:
    return {**EXAMPLE, "payment_info": {"method": "credit_card", **fields}}


def sent_to(**fields: Any) -> dict[str, Any]:
    return {**EXAMPLE, "shipping_info": {**EXAMPLE["shipping_info"], **fields}}


def one_item(**fields: Any) -> dict[str, Any]:
    return {**EXAMPLE, "items": [{**EXAMPLE["items"][0], **fields}]}


# -- card numbers: fields for them

CARD_FIELDS: dict[str, Any] = {
    "card_last4": lambda card: paid_with(card_last4=card),
    "token": lambda card: paid_with(token=card),
    "reference": lambda card: paid_with(reference=card),
    "method": lambda card: paid_with(method=card),
    "card_number": lambda card: paid_with(card_number=card),
    "number": lambda card: paid_with(number=card),
    "pan": lambda card: paid_with(pan=card),
    "card.number": lambda card: paid_with(card={"number": card}),
    "the order's card_number": lambda card: {**EXAMPLE, "card_number": card},
    "cards of another object": lambda card: {**EXAMPLE, "billing": {"cards": [{"pan": card}]}},
    "credit_card.number": lambda card: {**EXAMPLE, "credit_card": {"number": card}},
    "an item's": lambda card: one_item(cardNumber=card),
    "an order that is nothing but an id": lambda card: {"id": "A", "ccNumber": card},
}


@pytest.mark.parametrize("place", CARD_FIELDS)
@pytest.mark.parametrize("card", [*CARDS, DINERS, "4222222222222"])
def test_a_field_for_card_data_refuses_a_card_number(place: str, card: str) -> None:
    if place in {"token", "reference"} and len(card) == 13:
        return  # these may be numbers, too, and no issuer uses so few digits any more
    check_refused(card, CARD_FIELDS[place](card))
    check_refused(card, CARD_FIELDS[place](grouped(card, " ")))
    check_refused(card, CARD_FIELDS[place](grouped(card, "-")))
    check_refused(card, CARD_FIELDS[place](int(card)))


@pytest.mark.parametrize(
    "number", [float(VISA), Decimal(VISA), Decimal(f"{VISA}.00"), f"{VISA}.0", f"{VISA}.00"], ids=repr
)
@pytest.mark.parametrize(
    "place", ["card_last4", "card_number", "number", "an order that is nothing but an id"]
)
def test_a_card_number_is_found_as_another_number(place: str, number: object) -> None:
    """As a spreadsheet or a data frame writes it."""
    check_refused(VISA, CARD_FIELDS[place](number))


@pytest.mark.parametrize("card", ["4111111111111112", "4111 1111 1111"])
def test_a_field_of_that_name_refuses_also_a_mistyped_one(card: str) -> None:
    check_refused(digits(card), paid_with(card_number=card))


def test_the_place_is_reported_and_nothing_else_is_kept() -> None:
    content = json.loads(
        take_in(
            {
                **paid_with(card_number=VISA, holder="Jane"),
                "billing": {"cards": [{"pan": VISA}], "x": "secret"},
            }
        ).text
    )
    assert content[HAS_REMOVED] == {
        "payment_info.card_number": CARD_REMOVED,
        "billing.cards[0].pan": CARD_REMOVED,
    }
    assert content["payment_info"] == {"method": "credit_card"}
    assert "secret" not in str(content)


@pytest.mark.parametrize(
    "field",
    ["cvv", "cvc", "cvv2", "cvc2", "security_code", "CVV", "Cvc", "card_cvv", "cvvCode", "cvc ", "csc"],
)
@pytest.mark.parametrize("value", ["9876", 9876, ["9876"], {"x": "9876"}])
@pytest.mark.parametrize("shape", ["well-shaped", "not an order"])
def test_a_security_code_is_refused(field: str, value: object, shape: str) -> None:
    order = paid_with(**{field: value})
    if shape == "not an order":
        order["items"] = None
    content = take_in(order)
    assert json.loads(content.text)[HAS_REMOVED] == {f"payment_info.{field}": CODE_REMOVED}
    assert "9876" not in content.text
    assert "9876" not in take_in({"id": "A", "payment": {field: value}}).text


@pytest.mark.parametrize(
    "fields",
    [
        {
            "cvv_result_code": "M",
            "avs_result_code": "Y",
            "credit_card_number": "•••• •••• •••• 4242",
            "credit_card_company": "Visa",
        },
        {
            "cvc_check": "pass",
            "cvv": None,
            "card_number": None,
            "cvc": "",
            "card": {"brand": "visa", "last4": "4242"},
        },
        {"card_last4": "4242", "token": "pm_1PAbcdEfghIjklMnopQrstuv"},
        {"card_last4": 4242, "token": "6076399753379"},
        {"method": "already_paid", "reference": "2026113004124"},
        {"method": "already_paid", "reference": "pay_456789012345_18"},
    ],
)
def test_what_is_about_a_card_but_no_card_data_does_no_harm(fields: dict[str, Any]) -> None:
    check_taken(paid_with(**fields))


# -- card numbers: free text

FREE_TEXT: dict[str, Any] = {
    "notes": lambda text: {**EXAMPLE, "notes": text},
    "customer_name": lambda text: {**EXAMPLE, "customer_name": text},
    "customer_email": lambda text: {**EXAMPLE, "customer_email": f"{text}@example.com"},
    "name": lambda text: sent_to(name=text),
    "address": lambda text: sent_to(address=text),
    "address2": lambda text: sent_to(address2=text),
    "city": lambda text: sent_to(city=text),
    "zip": lambda text: sent_to(zip=text),
    "phone": lambda text: sent_to(phone=text),
    "country": lambda text: sent_to(country=text),
    "currency": lambda text: {**EXAMPLE, "currency": text},
    "a product's name": lambda text: one_item(name=text),
}


@pytest.mark.parametrize("place", FREE_TEXT)
@pytest.mark.parametrize("card", CARDS)
def test_a_card_number_in_free_text_is_masked(place: str, card: str) -> None:
    for written in (card, grouped(card, " "), grouped(card, "-")):
        content = check_nothing_of(card, FREE_TEXT[place](f"my card {written} please"))
        assert "[card number] please" in content.text or "[CARD NUMBER] PLEASE" in content.text
        assert HAS_REMOVED not in json.loads(content.text)
    check_nothing_of(card, FREE_TEXT[place](int(card)))


@pytest.mark.parametrize("place", ["notes", "customer_name", "name", "address", "a product's name"])
def test_the_order_is_taken_without_it(place: str) -> None:
    check_taken(FREE_TEXT[place](f"card {VISA}"))


def test_the_rest_of_the_order_stays() -> None:
    content = check_taken({**EXAMPLE, "notes": f"{VISA} 12/30"})
    assert content == json.loads(take_in({**EXAMPLE, "notes": "[card number]"}).text)


@pytest.mark.parametrize(
    "text",
    [
        "+1 555 123 4567",
        "1234567890123",
        "9780306406157",
        "4111 1111 1111 1112",
        "12345678901234567890",
        "2031-02-03 04:05:06",
        "1059.97",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert json.loads(take_in({**EXAMPLE, "notes": text}).text)["notes"] == text


@pytest.mark.parametrize(
    "uuid",
    [
        "41bbe15a-90e5-4906-8732-2774b438f361",
        "68907177-7003-4b6d-a67d-12ebf10cc048",
        "07045483F17B4766937706461174B813",
    ],
)
def test_a_uuid_is_no_card_number_whatever_its_digits(uuid: str) -> None:
    """Each of these has digits in a row that would pass for one."""
    content = check_taken({**EXAMPLE, "id": uuid, "notes": f"for {uuid}, as said"})
    assert (content["id"], content["notes"]) == (uuid, f"for {uuid}, as said")


def test_a_card_number_in_an_order_object_is_found() -> None:
    check_nothing_of(VISA, Order.model_validate({**EXAMPLE, "notes": VISA}))


# -- card numbers: where there is none

rng = random.Random(7)
IDS: dict[str, Any] = {
    "Shopify's orders": lambda: str(rng.randint(4_000_000_000_000, 6_999_999_999_999)),
    "Shopify's variants": lambda: str(rng.randint(39_000_000_000_000, 51_999_999_999_999)),
    "EAN-13": lambda: str(rng.randint(2_000_000_000_000, 6_999_999_999_999)),
    "date and time": lambda: (
        f"202601{rng.randint(10, 28)}{rng.randint(10, 23)}{rng.randint(10, 59)}{rng.randint(10, 59)}"
    ),
    "date and counter": lambda: f"202601{rng.randint(10, 28)}-{rng.randint(0, 999_999):06d}",
    "marketplaces, 3-7-7": lambda: (
        f"{rng.randint(200, 499)}-{rng.randint(0, 9_999_999):07d}-{rng.randint(0, 9_999_999):07d}"
    ),
    "tracking numbers of 15 digits": lambda: str(rng.randint(2 * 10**14, 7 * 10**14)),
    "snowflakes of 18 digits": lambda: str(rng.randint(10**17, 10**18)),
    "Visa's shape": lambda: str(rng.randint(4 * 10**15, 5 * 10**15 - 1)),
}


@pytest.mark.parametrize("kind", IDS)
def test_an_order_is_not_refused_for_its_ids(kind: str) -> None:
    """Of 20,000 random ones in every place that has ids,
    and in fields that are not known: none, and each is kept as it came."""
    for _ in range(2_000):
        order_id, customer, product = IDS[kind](), IDS[kind](), IDS[kind]()
        order = {
            **one_item(product_id=product),
            "id": order_id,
            "customer_id": customer,
            "checkout_id": IDS[kind](),
            "cart": {"id": IDS[kind]()},
        }
        content = check_taken(order)
        assert (content["id"], content["customer_id"], content["items"][0]["product_id"]) == (
            order_id,
            customer,
            product,
        )


def test_an_order_is_not_refused_for_its_numbers() -> None:
    for number in ("14.309999999999999", 14.309999999999999, "4.111111111111111", 37.8282246310005):
        content = take_in(one_item(price=number)).text
        assert REMOVED not in content
        assert digits(str(number)) in digits(content)


@pytest.mark.parametrize("field", ["quantity", "price"])
@pytest.mark.parametrize("card", [VISA, int(VISA), float(VISA)], ids=repr)
def test_a_number_that_no_order_can_have_is_not_kept_if_it_is_a_card_number(field: str, card: object) -> None:
    check_refused(VISA, one_item(**{field: card}))
    check_refused(VISA, {**EXAMPLE, "total_amount": card})


# -- fields that an order does not have


@pytest.mark.parametrize("shape", ["well-shaped", "not an order"])
def test_unknown_fields_leave_no_trace(shape: str) -> None:
    secret = "do-not-keep"
    order = {
        **EXAMPLE,
        "items": [{**EXAMPLE["items"][0], "attributes": {"engraving": secret}}],
        "payment_info": {**EXAMPLE["payment_info"], "holder": secret},
        "shipping_info": {**EXAMPLE["shipping_info"], "latitude": secret},
        "note_attributes": [{"name": secret, "value": secret}],
        secret: 1,
        "number": VISA,
        VISA: secret,
    }
    if shape == "not an order":
        order["total_amount"] = {"x": 1}
    content = take_in(order)
    assert secret not in content.text
    assert VISA not in content.text
    assert HAS_REMOVED not in json.loads(content.text)


@pytest.mark.parametrize("notes", ["a [removed: b", 'a "[removed: b"', "a\\[removed: b"])
def test_words_like_a_mark_do_not_keep_an_order_from_being_normalised(notes: str) -> None:
    item = {**EXAMPLE["items"][0], "digital": "", "quantity": "1"}
    content = check_taken({**EXAMPLE, "items": [item], "total_amount": 999.99, "notes": notes})
    assert content["notes"] == notes
    assert content["items"][0] == EXAMPLE["items"][0]


def test_orders_of_shops_are_not_refused_for_the_fields_that_they_add() -> None:
    """What Shopify and WooCommerce send beside an order's own fields."""
    order = {
        **EXAMPLE,
        "name": "#1001",
        "number": 1,
        "email": EXAMPLE["customer_email"],
        "contact_email": "x@example.com",
        "note": None,
        "tags": "",
        "token": "abc",
        "test": False,
        "gateway": "stripe",
        "phone": None,
        "source_name": "web",
        "status": "processing",
        "total_tax": "0.00",
        "total_discounts": "0.00",
        "total_price": "1059.97",
        "discount_total": "0.00",
        "shipping_total": "0.00",
        "currency_symbol": "$",
        "presentment_currency": "USD",
        "customer_note": "",
        "customer_ip_address": "127.0.0.1",
        "payment_method": "card",
        "shipping": {"first_name": "John"},
        "shipping_address": {"zip": "90210"},
        "shipping_lines": [],
        "line_items": [],
        "fee_lines": [],
        "currency_code": "usd",
        "created_at": "2026-01-01",
        "cart_hash": "x",
        "meta_data": [],
        "discount_codes": [],
        "customer_mail": " ",
        "items": [
            {**item, "grams": 100, "current_quantity": 1, "price_set": {}, "tax_lines": []}
            for item in EXAMPLE["items"]
        ],
        "shipping_info": {
            **EXAMPLE["shipping_info"],
            "country_code": "us",
            "first_name": "John",
            "province": "California",
            "company": None,
        },
    }
    content = check_taken(order)
    assert content == json.loads(take_in(EXAMPLE).text)


def without(name: str, part: str = "") -> dict[str, Any]:
    order: dict[str, Any] = json.loads(json.dumps(EXAMPLE))
    (order[part] if part else order).pop(name)
    return order


NEARLY: list[tuple[str, str, str, Any]] = [
    *(
        ("currency", "", other, "jpy")
        for other in (
            "currency_code",
            "currencyCode",
            "Currency",
            "curency",
            "currancy",
            "CURRENCY",
            "currency ",
        )
    ),
    *(
        ("customer_email", "", other, "a@b.example")
        for other in ("email", "e-mail", "customerEmail", "customer_mail", "costumer_email")
    ),
    *(
        ("shipping_info", "", other, {"city": "X"})
        for other in ("shipping", "shipping_address", "shippingInfo", "shiping_info")
    ),
    *(("payment_info", "", other, {"method": "paypal"}) for other in ("payment", "paymentInfo")),
    *(("items", "", other, [{"product_id": "P"}]) for other in ("line_items", "Items", "item")),
    *(
        ("country", "shipping_info", other, "DE")
        for other in ("country_code", "countryCode", "Country", "contry")
    ),
    *(("zip", "shipping_info", other, "10115") for other in ("postcode", "postal_code", "zip_code", "ZIP")),
    *(
        ("address", "shipping_info", other, "Street 1")
        for other in ("address1", "street", "adress", "addres")
    ),
    *(("city", "shipping_info", other, "Berlin") for other in ("town", "City")),
    *(("state", "shipping_info", other, "CA") for other in ("province", "region")),
    *(("card_last4", "payment_info", other, "4242") for other in ("last4", "cardLast4", "card_last_4")),
]


@pytest.mark.parametrize(("name", "part", "other", "value"), NEARLY, ids=lambda value: str(value)[:30])
def test_a_field_that_nearly_has_the_name_of_one_that_matters_is_refused(
    name: str, part: str, other: str, value: Any
) -> None:
    order = without(name, part)
    (order[part] if part else order)[other] = value
    place = f"{part}.{other}" if part else other
    assert json.loads(take_in(order).text)[HAS_REMOVED] == {place: f"{MISNAMED}{name}]"}


@pytest.mark.parametrize("other", ["address_2", "address2 ", "street2", "line2", "addressLine2", "apartment"])
def test_a_second_line_of_another_name_is_refused_although_the_first_is_there(other: str) -> None:
    assert json.loads(take_in(sent_to(**{other: "Apt 5"})).text)[HAS_REMOVED] == {
        f"shipping_info.{other}": f"{MISNAMED}address2]"
    }


def test_the_second_line_and_the_phone_are_kept() -> None:
    kept = check_taken(sent_to(address2="Apt 5", phone="+1 555 123 4567"))["shipping_info"]
    assert (kept["address2"], kept["phone"]) == ("Apt 5", "+1 555 123 4567")


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ({**EXAMPLE, "currency_code": "JPY"}, "currency_code"),
        (sent_to(countryCode="DE"), "shipping_info.countryCode"),
    ],
)
def test_two_fields_that_say_different_things_about_money_or_destination_are_refused(
    order: dict[str, Any], place: str
) -> None:
    assert list(json.loads(take_in(order).text)[HAS_REMOVED]) == [place]


def test_ten_thousand_unknown_fields_take_no_time_to_speak_of() -> None:
    order = {**EXAMPLE, **{f"curr{i}": "USD" for i in range(10_000)}}
    assert check_taken(order) == json.loads(take_in(EXAMPLE).text)


# -- fingerprints

FINGERPRINT_BEFORE = "cf24978815acca6ad9b347d3a6be13e43279e7a4b2b4880b05b8fc58feb2ac6e"
"""Of `EXAMPLE`, by the version that covered every field and its default."""


class LaterItem(Item):
    gift: str | None = None


class LaterOrder(Order):
    """As a later version may have it."""

    items: list[LaterItem]  # type: ignore[assignment]
    channel: str = "web"
    delivery_notes: str | None = None


def test_a_new_optional_field_changes_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = take_in(EXAMPLE)
    monkeypatch.setattr("shop.orders.intake_content.Order", LaterOrder)
    monkeypatch.setattr("shop.orders.fingerprints.Order", LaterOrder)
    monkeypatch.setattr("shop.orders.intake_content.Item", LaterItem)
    after = take_in(EXAMPLE)
    assert after.fingerprint == before.fingerprint
    assert take_in({**EXAMPLE, "channel": "web", "delivery_notes": None}).fingerprint == before.fingerprint
    assert take_in({**EXAMPLE, "channel": "phone"}).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "explicit", [{"tax_amount": "0"}, {"notes": None}, {"tax_amount": 0.0, "discount_amount": "0.00"}]
)
def test_a_default_that_is_given_is_as_one_that_is_left_out(explicit: dict[str, Any]) -> None:
    assert take_in({**EXAMPLE, **explicit}) == take_in(EXAMPLE)


def fields_of(model: type[BaseModel], place: str = "") -> set[str]:
    """The places of the model's fields, those of its parts with the part's name."""
    parts = {"items": Item, "payment_info": PaymentInfo, "shipping_info": ShippingInfo}
    found = {f"{place}{name}" for name in model.model_fields}
    if not place:
        found |= {each for name, part in parts.items() for each in fields_of(part, f"{name}.")}
    return found


FIELDS_OF_2 = frozenset(
    "id customer_id items total_amount currency customer_name customer_email payment_info shipping_info "
    "tax_amount shipping_amount discount_amount notes items.product_id items.quantity items.price items.name "
    "payment_info.method payment_info.card_last4 payment_info.token shipping_info.name shipping_info.address "
    "shipping_info.address2 shipping_info.city shipping_info.state shipping_info.zip shipping_info.country "
    "shipping_info.phone".split()
)


def test_every_field_states_which_version_added_it() -> None:
    """Else an order that an earlier version stored, without the field, would not be the same any more."""
    assert FIELDS_OF_2.union(*fingerprints.ADDED.values()) == fields_of(Order)


def of_version_2(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The fingerprint and the content that version 2 stored."""
    known = {
        key: [{k: v for k, v in each.items() if f"items.{k}" in FIELDS_OF_2} for each in value]
        if key == "items"
        else {k: v for k, v in value.items() if f"{key}.{k}" in FIELDS_OF_2}
        if isinstance(value, dict)
        else value
        for key, value in order.items()
        if key in FIELDS_OF_2
    }
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return f"2:{hashlib.sha256(text.encode()).hexdigest()}", known


@pytest.mark.parametrize(
    "added",
    [
        {},
        {"order_number": "#7", "locale": "de", "metadata": {"x": 1}},
        {"tip_amount": "5", "prices_include_tax": True, "fees": [{"amount": 1}]},
        {"shipping_info": {**EXAMPLE["shipping_info"], "company": "ACME"}},
        {"items": [{**item, "sku": "S", "digital": True} for item in EXAMPLE["items"]]},
    ],
)
def test_an_order_that_version_2_stored_is_the_same_order(added: dict[str, Any]) -> None:
    """It dropped the fields that it did not know. The content is gone once the customer is erased."""
    fingerprint, content = of_version_2({**EXAMPLE, **added})
    sent = take_in({**EXAMPLE, **added})
    assert sent.is_same_as(fingerprint, None)
    assert sent.is_same_as("2:" + "0" * 64, content)
    other = take_in({**EXAMPLE, **added, "total_amount": "1"})
    assert not other.is_same_as(fingerprint, content)


def test_an_empty_text_that_version_2_stored_is_the_same_order() -> None:
    order = {**EXAMPLE, "notes": "", "shipping_info": {**EXAMPLE["shipping_info"], "state": ""}}
    fingerprint, content = of_version_2(order)
    assert take_in(order).is_same_as(fingerprint, content)


def test_fingerprints_of_the_version_before_are_known() -> None:
    assert take_in(EXAMPLE).is_same_as(FINGERPRINT_BEFORE, None)
    assert take_in({**EXAMPLE, "total_amount": 1059.97, "unknown": 1}).is_same_as(FINGERPRINT_BEFORE, None)
    assert not take_in({**EXAMPLE, "notes": "x"}).is_same_as(FINGERPRINT_BEFORE, None)
    assert not take_in({**EXAMPLE, "currency": "EUR"}).is_same_as(FINGERPRINT_BEFORE, None)


def test_what_came_without_currency_and_country_is_known_when_it_comes_again() -> None:
    order = without("currency")
    del order["shipping_info"]["country"]
    assert take_in(order).is_same_as(FINGERPRINT_BEFORE, None)
    assert take_in({**order, "currency_code": "usd"}).is_same_as(FINGERPRINT_BEFORE, None)
    assert not take_in({**order, "currency": "EUR"}).is_same_as(FINGERPRINT_BEFORE, None)


def test_a_second_line_that_was_dropped_before_makes_no_other_order() -> None:
    assert take_in(sent_to(address2="Apt 5")).is_same_as(FINGERPRINT_BEFORE, None)
    assert take_in(sent_to(address2="Apt 5")).fingerprint != take_in(EXAMPLE).fingerprint


def test_what_the_version_before_stored_of_a_bad_order_is_known() -> None:
    """It kept fields that no order has."""
    stored = {"id": "A", "items": "none", "total_amount": 1, "unknown": {"x": 1}}
    content = take_in(stored)
    assert content.is_same_as("0" * 64, stored)
    assert not take_in({**stored, "total_amount": 2}).is_same_as("0" * 64, stored)


# -- shape


@pytest.mark.parametrize(
    "order", [None, True, 1, 1.5, "text", b"bytes", [], [EXAMPLE], (), set(), object(), float("nan")]
)
def test_what_is_no_order(order: object) -> None:
    with pytest.raises(UnusableOrder) as error:
        take_in(order)
    (problem,) = error.value.problems
    assert (problem.place, problem.expected) == ("order", "an object with an id")


@pytest.mark.parametrize(
    ("order_id", "given"),
    [
        (None, "nothing"),
        ("", "nothing"),
        ("  \t", "nothing"),
        (True, "True"),
        (1.5, "a number"),
        (-1, "a number"),
        (10**30, "a number"),
        (10**5000, "a number"),
        ([], "a list of 0"),
        ({}, "an object"),
        ("a" * 201, "201 characters"),
        ("a\x00b", "control characters in it"),
        ("a\nb", "control characters in it"),
        ("a\ud800b", "control characters in it"),
        ("a\u2028b", "control characters in it"),
        ("a\x7fb", "control characters in it"),
        ("a\x85b", "control characters in it"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) or value < 10**40 else "a huge number",
)
def test_an_id_that_is_none(order_id: object, given: str) -> None:
    with pytest.raises(UnusableOrder) as error:
        take_in({**EXAMPLE, "id": order_id})
    (problem,) = error.value.problems
    assert (problem.place, problem.given) == ("id", given)


def test_an_order_without_an_id() -> None:
    with pytest.raises(UnusableOrder):
        take_in({key: value for key, value in EXAMPLE.items() if key != "id"})


@pytest.mark.parametrize(
    ("given", "order_id"),
    [
        ("a" * 200, "a" * 200),
        (" A ", "A"),
        (7, "7"),
        (0, "0"),
        ("字", "字"),
        ("../x", "../x"),
        ("'; --", "'; --"),
    ],
)
@pytest.mark.parametrize("rest", [EXAMPLE, {}, {"items": 1}])
def test_an_id_is_kept_as_it_is_but_for_its_ends(given: object, order_id: str, rest: dict[str, Any]) -> None:
    content = take_in({**rest, "id": given})
    assert content.order_id == order_id
    assert json.loads(content.text)["id"] == order_id


@pytest.mark.parametrize("character", [*map(chr, range(0x20)), "\x7f", "\ud800"], ids=repr)
@pytest.mark.parametrize("shape", ["well-shaped", "not an order"])
def test_control_characters(character: str, shape: str) -> None:
    order = {**EXAMPLE, "notes": f"a{character}b"}
    if shape == "not an order":
        order["items"] = None
    notes = storable(take_in(order))["notes"]
    assert notes == (f"a{character}b" if character in "\t\n\r" else CONTROL)


def test_control_characters_in_keys_and_unknown_fields() -> None:
    content = storable(
        take_in({"id": "A", "a\x00b": 1, "x": {"y\ud800": "\x00"}, "items": {"y\ud800": "\x00"}})
    )
    assert content == {"id": "A", "items": {CONTROL: CONTROL}, HAS_REMOVED: {}}


@pytest.mark.parametrize("depth", [7, 8, 9, 100, 10_000, 100_000])
def test_deep_nesting(depth: int) -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"x": inner}):
        deep: Any = "end"
        for _ in range(depth):
            deep = wrap(deep)
        content = take_in({"id": "A", "notes": deep})
        storable(content)
        assert (TOO_DEEP in content.text) == (depth > 7)
        assert storable(take_in({"id": "A", "deep": deep})) == {"id": "A"}
        storable(take_in({**EXAMPLE, "deep": deep}))
        storable(take_in({**EXAMPLE, "notes": deep}))
        while isinstance(deep, list | dict):  # the interpreter cannot free so deep a structure by itself
            deep = deep.pop() if isinstance(deep, list) else deep.pop("x")


def test_an_order_that_holds_itself() -> None:
    order: dict[str, Any] = {**EXAMPLE}
    order["self"] = order
    assert take_in(order) == take_in(EXAMPLE)
    order["items"] = order
    assert TOO_DEEP in take_in(order).text


def test_ten_thousand_entries_in_a_list() -> None:
    item = EXAMPLE["items"][0]
    content = storable(take_in({**EXAMPLE, "items": [item] * 10_000}))
    assert len(content["items"]) == 1_001
    assert content["items"][-1].startswith(REMOVED)
    assert take_in({"id": "A", "x": list(range(10_000))}).text == '{"id": "A"}'
    assert len(take_in({"id": "A", "notes": list(range(10_000))}).text) < 20_000


def test_ten_thousand_entries_in_an_object() -> None:
    many = {f"key {i}": i for i in range(10_000)}
    content = take_in({"id": "A", "notes": many})
    assert len(content.text) < 40_000
    assert HAS_REMOVED in storable(content)


@pytest.mark.parametrize(
    "known", [{"currency": "EUR"}, {"discount_amount": "0.01"}, {"shipping_info": EXAMPLE["shipping_info"]}]
)
def test_no_field_is_lost_behind_ten_thousand_others(known: dict[str, Any]) -> None:
    """An order in euros must not be charged in dollars because of what stands before its currency."""
    base = {key: value for key, value in EXAMPLE.items() if key not in known}
    content = storable(take_in({**base, **{f"key {i}": i for i in range(10_000)}, **known}))
    kept = (
        all(content.get(name) not in {None, "USD", "0.00"} for name in known)
        if "shipping_info" not in known
        else content.get("shipping_info")
    )
    assert kept or HAS_REMOVED in content


def test_long_texts_and_numbers() -> None:
    assert storable(take_in({"id": "A", "customer_name": "y" * 2_001}))["customer_name"] == TOO_LONG
    assert storable(take_in({"id": "A", "notes": "y" * 2_000}))["notes"] == "y" * 2_000
    for number in (10**30, -(10**30), 10**5000):
        assert storable(take_in({"id": "A", "total_amount": number}))["total_amount"] == TOO_LARGE
    assert storable(take_in({"id": "A", "k" * 5_000: 1})) == {"id": "A"}


@pytest.mark.parametrize("length", [2_001, 3_000, 15_000])
def test_whether_a_text_is_too_long_does_not_depend_on_the_rest(length: int) -> None:
    short = take_in({**EXAMPLE, "customer_name": "y" * length})
    longer = take_in({**EXAMPLE, "customer_name": "y" * length, "unknown": ["z" * 1_000] * 20})
    assert storable(short)["customer_name"] == storable(longer)["customer_name"] == TOO_LONG


@pytest.mark.parametrize("before", [0, 1_980, 1_990, 1_999, 2_000, 2_100])
def test_a_text_that_is_only_shown_is_cut(before: int) -> None:
    """And no part of a card number is left where it is cut."""
    text = "y" * before + f" {VISA} " + "z" * 8_000
    for order in ({**EXAMPLE, "notes": text}, one_item(name=text), {**EXAMPLE, "metadata": {"gift": [text]}}):
        content = check_taken(order)
        assert VISA[:7] not in digits(json.dumps(content["items" if "notes" not in content else "notes"]))
        assert VISA[:7] not in digits(json.dumps(content))
    assert len(check_taken({**EXAMPLE, "notes": text})["notes"]) <= 2_000


def test_unknown_fields_are_listed() -> None:
    order = {
        **EXAMPLE,
        "channel": "web",
        "empty": {"x": [None, ""]},
        "items": [{**EXAMPLE["items"][0], "color": "red", "name": None}, EXAMPLE["items"][1]],
        "shipping_info": {**EXAMPLE["shipping_info"], "latitude": 1.5},
    }
    assert sorted(take_in(order).ignored) == ["channel", "items[0].color", "shipping_info.latitude"]
    many = take_in({**EXAMPLE, **{f"x{i}": 1 for i in range(200)}}).ignored
    assert len(many) == 51
    assert many[-1] == "and 150 more"


@pytest.mark.parametrize(
    "free",
    [
        {"metadata": {"cvv": "123"}},
        {"metadata": {"card": {"cvc": "123"}}},
        {"metadata": {"list": [{"card_number": VISA}]}},
        {"items": [{**EXAMPLE["items"][0], "properties": {"CVV": "123"}}]},
    ],
)
def test_card_data_in_free_objects_is_refused(free: dict[str, Any]) -> None:
    content = take_in({**EXAMPLE, **free})
    assert REMOVED in content.text
    assert "123" not in content.text.replace("CUST-123", "").replace("123 Main", "").replace("1234", "")


def test_half_a_letter_in_metadata_is_no_obstacle() -> None:
    content = take_in({**EXAMPLE, "metadata": {"note": "x\ud83d", "y\ud83d": 1}})
    content.text.encode()
    Order.model_validate_json(content.text)


@pytest.mark.parametrize(
    "metadata",
    [
        {"n": 10**25, "f": 1.5, "d": Decimal("1.10"), "t": "x", "b": True, "l": [1, {"x": None}]},
        {"deep": {"deep": {"deep": {"deep": {"deep": {"deep": 1}}}}}},
        {"nan": float("nan"), "inf": float("inf")},
        {f"key {i}": i for i in range(300)},
    ],
)
def test_metadata_stays_the_same_when_it_is_taken_in_again(metadata: dict[str, Any]) -> None:
    once = take_in({**EXAMPLE, "metadata": metadata})
    again = take_in(json.loads(once.text))
    assert (again.text, again.fingerprint) == (once.text, once.fingerprint)
    Order.model_validate_json(once.text)


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_nothing_and_an_empty_text_mean_left_out(empty: str | None) -> None:
    optional = [name for name, field in Order.model_fields.items() if not field.is_required()]
    left_out = {name: value for name, value in EXAMPLE.items() if name not in optional}
    sent = {**left_out, **dict.fromkeys(optional, empty)}
    sent["items"] = [
        {**dict.fromkeys(Item.model_fields, empty), "product_id": "P", "quantity": 1, "price": 5}
    ]
    bare = {**left_out, "items": [{"product_id": "P", "quantity": 1, "price": 5}]}
    assert take_in(sent) == take_in(bare)
    assert take_in({**sent, "shipping_info": {"city": empty, "zip": empty}}) == take_in(bare)


def test_what_is_not_json() -> None:
    odd = {"x": object(), "y": b"bytes", "z": {1, 2}, "n": float("nan"), "i": float("inf"), None: 1, 2: 3}
    content = storable(take_in({"id": "A", "items": odd, **odd}))  # type: ignore[dict-item]
    assert content.keys() == {"id", "items", HAS_REMOVED}
    content = content["items"]
    assert {content["x"], content["y"], content["z"]} == {"[removed: was not JSON]"}
    assert (content["n"], content["i"], content["None"], content["2"]) == ("nan", "inf", 1, 3)


def test_foreign_marks_do_no_harm() -> None:
    for order in (
        {**EXAMPLE, "notes": f"{REMOVED}ha]"},
        {**EXAMPLE, HAS_REMOVED: False},
        {**EXAMPLE, HAS_REMOVED: {"x": 1}},
    ):
        assert storable(take_in(order))["total_amount"] == "1059.97"


# -- anything

texts = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=10),  # with surrogates
    st.sampled_from(
        [
            "",
            "\x00",
            "\ud800",
            "\udc00\ud800",
            "\ufffe",
            "\u2028",
            "\\u0000",
            "\\",
            '"',
            REMOVED,
            HAS_REMOVED,
            VISA,
            "1e400",
            "NaN",
        ]
    ),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**29, 10**30, 10**400, -(2**63), 2**64, int(VISA)]),
    st.floats(),
    texts,
)
odd = st.one_of(st.decimals(), st.binary(max_size=5), st.complex_numbers(), st.just(object()), st.datetimes())
values = st.recursive(
    st.one_of(scalars, odd),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(texts, st.integers(), st.none()), inner, max_size=5),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)
FIELDS = [*Order.model_fields, "unknown", HAS_REMOVED]
loose = st.dictionaries(st.one_of(st.sampled_from(FIELDS), texts), values, max_size=6)
ids = st.one_of(st.text(min_size=1, max_size=MAX_ORDER_ID + 5), st.integers(), texts)
with_id = st.builds(lambda order, order_id: {**order, "id": order_id}, loose, ids)
well_shaped = st.builds(lambda order, order_id: {**EXAMPLE, **order, "id": order_id}, loose, ids)


@relaxed
@given(st.one_of(with_id, well_shaped, loose, values))
@example({"id": "A", "x": "\x00"})
@example({**EXAMPLE, "notes": "\ud800"})
@example({**EXAMPLE, "id": "A\x1f"})
@example({**EXAMPLE, "id": "\x1cA"})
def test_anything_is_storable_or_unusable(raw: object) -> None:
    try:
        content = take_in(raw)
    except UnusableOrder as error:
        reasons, details = error.reasons(), json.dumps(error.details())
        assert all(reasons), details
        return
    read = storable(content)
    assert read["id"] == content.order_id
    assert 1 <= len(content.order_id) <= MAX_ORDER_ID
    assert VISA not in digits(content.text) or VISA in digits(str(float(VISA)))
    assert take_in(raw) == content


@relaxed
@given(st.one_of(with_id, well_shaped))
@example({**EXAMPLE, "~removed": 10**30})
@example({**EXAMPLE, "~removed": "[removed: by somebody else]", "notes": "4111 1111 1111 1111"})
def test_what_was_taken_in_is_taken_in_again_as_it_is(raw: dict[Any, Any]) -> None:
    try:
        content = take_in(raw)
    except UnusableOrder:
        return
    again = take_in(json.loads(content.text))
    assert again.order_id == content.order_id
    assert again.fingerprint == content.fingerprint


@relaxed
@given(
    st.sampled_from(CARDS),
    st.sampled_from(["", " ", "-", "."]),
    st.text(max_size=10),
    st.text(max_size=10),
    st.data(),
)
def test_a_card_number_inside_any_text(
    card: str, separator: str, before: str, after: str, data: st.DataObject
) -> None:
    around = before.rstrip("0123456789 .-") + "|", "|" + after
    cut = sorted(data.draw(st.lists(st.integers(1, len(card) - 1), max_size=4, unique=True)))
    parts = [card[i:j] for i, j in zip([0, *cut], [*cut, len(card)], strict=True)]
    content = take_in({**EXAMPLE, "notes": around[0] + separator.join(parts) + around[1]})
    assert (
        json.loads(content.text)["notes"]
        == json.loads(take_in({**EXAMPLE, "notes": f"{around[0]}[card number]{around[1]}"}).text)["notes"]
    )
    assert card[:12] not in digits(content.text)


def storable(content: Content) -> Any:
    """The content, read as the database and its clients read it."""
    content.text.encode("utf-8")
    read = json.loads(content.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for text in strings(read):
        assert "\x00" not in text
        text.encode("utf-8")
    assert re.fullmatch(r"[0-9]+:[0-9a-f]{64}", content.fingerprint)
    return read


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *strings(inner))]
    return [text for inner in value for text in strings(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    "separator",
    [
        "\u200b",
        "\u2060\u200d",
        "/",
        "_",
        ",",
        ":",
        "\u00b7",
        " " * 50,
        "\t\n\t\n\t",
        "\u3164",
        '"""',
        "\\\\",
        "'",
        "\x85",
    ],
)
@pytest.mark.parametrize("place", ["notes", "customer_name", "name", "address2"])
def test_no_card_number_is_joined_by_cleaning(separator: str, place: str) -> None:
    """What mails and labels write is the text without invisible characters, and with single blanks."""
    text = f"call me {grouped(VISA, separator)} thanks"
    order = sent_to(**{place: text}) if place in {"name", "address2"} else {**EXAMPLE, place: text}
    content = json.loads(check_nothing_of(VISA, order).text)
    kept = content["shipping_info"][place] if place in {"name", "address2"} else content[place]
    assert one_line(kept) == "call me [card number] thanks"
