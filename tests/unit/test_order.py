"""The order's shape: money exactly as it was written, and one spelling for one order."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from deployments import trigger
from shop.orders import amounts
from shop.orders.intake_content import take_in
from shop.orders.order import EXAMPLE, Order, read_stored
from shop.orders.parts import Item
from shop.orders.scalars import Amount

relaxed = hypothesis_settings(deadline=None)
AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Amount)


def an_order(**changes: Any) -> Order:
    return Order.model_validate({**EXAMPLE, **changes})


# -- amounts


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("9.99", "9.99"),
        (9.99, "9.99"),
        (9.9, "9.90"),
        ("9.9", "9.90"),
        ("9.900", "9.90"),
        (10, "10.00"),
        (10.0, "10.00"),
        ("10", "10.00"),
        ("1e2", "100.00"),
        (0, "0.00"),
        (-100, "-100.00"),
        (0.1, "0.10"),
        (1059.97, "1059.97"),
        (1.1, "1.10"),
        (2.675, "2.675"),
        ("1.234567", "1.234567"),
        ("1.2340", "1.234"),
        (1e-6, "0.000001"),
        (999999999999.99, "999999999999.99"),
        ("999999999999.999999", "999999999999.999999"),
        (Decimal("9.90"), "9.90"),
        (Decimal("9.9000000000"), "9.90"),
    ],
)
def test_an_amount_is_what_was_written(given: object, stored: str) -> None:
    assert str(AMOUNT.validate_python(given)) == stored


@pytest.mark.parametrize(
    "given",
    [
        *(True, False, None, "", " ", "abc", "1,000", "9.99 USD", "$9.99", [], {}, ["9.99"], b"9.99", 1j),
        *(
            "NaN",
            "sNaN",
            "Infinity",
            "-inf",
            float("nan"),
            float("inf"),
            -float("inf"),
            Decimal("NaN"),
            Decimal("Infinity"),
        ),
        *(
            10**12,
            -(10**12),
            10**30,
            10**5000,
            1e12,
            1e300,
            "1e12",
            "1e999999999999999999",
            "9" * 5000,
            Decimal("1e999999"),
        ),
        *("1.2345678", 0.1 + 0.2, 1e-7, "1e-7", "1e-999999999999999999999", Decimal("1e-999999")),
    ],
    ids=lambda value: (
        repr(value)[:30] if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    ),
)
def test_what_is_no_amount(given: object) -> None:
    with pytest.raises(ValidationError):
        AMOUNT.validate_python(given)


@pytest.mark.parametrize(
    "given",
    [
        "0.1000000000000000000000000000000001",
        "999999999999.9999999999999999999999",
        "1.00000000000000000000000000000000000001",
        Decimal("1.00000000000000000000000000000000000000000000001"),
    ],
)
def test_no_amount_is_rounded_to_fit(given: object) -> None:
    with pytest.raises(ValidationError):
        AMOUNT.validate_python(given)


@pytest.mark.parametrize("given", ["-0", "-0.00", -0.0, "0e-400", "0.000"])
def test_nothing_has_one_spelling(given: object) -> None:
    assert str(AMOUNT.validate_python(given)) == "0.00"


@relaxed
@given(
    st.decimals(min_value=Decimal("-999999999999.999999"), max_value=Decimal("999999999999.999999"), places=6)
)
def test_every_amount_within_the_limits_is_exact(amount: Decimal) -> None:
    read = AMOUNT.validate_python(str(amount))
    assert read == amount
    assert AMOUNT.validate_python(str(read)) == read
    assert len(str(read).partition(".")[2]) >= 2


@relaxed
@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_a_float_is_its_shortest_spelling(cents: int) -> None:
    exact = Decimal(cents).scaleb(-2)
    assert AMOUNT.validate_python(json.loads(str(exact))) == exact
    assert str(AMOUNT.validate_python(float(str(exact)))) == str(AMOUNT.validate_python(str(exact)))


@relaxed
@given(
    st.one_of(
        st.text(max_size=50), st.floats(), st.integers(), st.decimals(), st.booleans(), st.none(), st.binary()
    )
)
def test_anything_is_an_exact_amount_or_no_amount(given: object) -> None:
    try:
        amount = AMOUNT.validate_python(given)
    except ValidationError:
        return
    assert amount == Decimal(repr(given) if isinstance(given, float) else given)  # type: ignore[arg-type]
    assert abs(amount) < 10**12
    assert amount == round(amount, 6)


# -- the order


def spelled(amount: str) -> list[object]:
    """The same amount, as different shops send it."""
    exact = Decimal(amount)
    whole: list[object] = [int(exact), float(exact)] if exact == int(exact) else [float(exact)]
    return [amount, f"{amount}0", f"{amount}000", f" {amount} ", f"{exact:e}", exact, *whole]


@pytest.mark.parametrize("field", ["total_amount", "tax_amount", "shipping_amount", "discount_amount"])
@pytest.mark.parametrize("amount", ["1059.97", "10.00", "0.10", "0.00"])
def test_the_same_order_in_other_spellings_is_the_same_order(field: str, amount: str) -> None:
    prints = {take_in({**EXAMPLE, field: value}).fingerprint for value in spelled(amount)}
    assert len(prints) == 1


@pytest.mark.parametrize(
    "other",
    [
        dict(reversed(EXAMPLE.items())),
        {**EXAMPLE, "currency": "usd"},
        {**EXAMPLE, "currency": " USD "},
        {**EXAMPLE, "tax_amount": 0, "discount_amount": "0", "notes": None},
        {**EXAMPLE, "customer_name": "  John Doe "},
        {**EXAMPLE, "unknown": "field"},
        {**EXAMPLE, "payment_info": {"card_last4": 1234, "method": "credit_card"}},
        {**EXAMPLE, "shipping_info": {**EXAMPLE["shipping_info"], "zip": 90210}},
        {**EXAMPLE, "items": [{**item, "quantity": str(item["quantity"])} for item in EXAMPLE["items"]]},
        {**EXAMPLE, "items": [{**item, "price": float(item["price"])} for item in EXAMPLE["items"]]},
        {**EXAMPLE, "items": tuple(EXAMPLE["items"])},
        Order.model_validate(EXAMPLE),
        json.loads(json.dumps(EXAMPLE)),
    ],
)
def test_other_ways_to_send_the_example(other: Any) -> None:
    assert take_in(other) == take_in(EXAMPLE)


@pytest.mark.parametrize(
    "other",
    [
        {**EXAMPLE, "total_amount": "1059.98"},
        {**EXAMPLE, "total_amount": "1059.970001"},
        {**EXAMPLE, "currency": "EUR"},
        {**EXAMPLE, "items": EXAMPLE["items"][:1]},
        {**EXAMPLE, "items": EXAMPLE["items"][::-1]},
        {**EXAMPLE, "customer_id": "CUST-124"},
        {**EXAMPLE, "payment_info": None},
        {**EXAMPLE, "notes": "Ring twice"},
    ],
)
def test_another_order_is_another_order(other: dict[str, Any]) -> None:
    assert take_in(other).fingerprint != take_in(EXAMPLE).fingerprint


def test_ids_may_be_numbers() -> None:
    order = an_order(id=1001, customer_id=123, items=[{"product_id": 7, "quantity": 1, "price": 5}])
    assert (order.id, order.customer_id, order.items[0].product_id) == ("1001", "123", "7")
    assert take_in({**EXAMPLE, "id": 1001}).fingerprint == take_in({**EXAMPLE, "id": "1001"}).fingerprint


@pytest.mark.parametrize("value", [True, 1.5, [], {"x": 1}])
def test_ids_are_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError):
        an_order(customer_id=value)


@pytest.mark.parametrize("quantity", ["two", 1.5, "1.5", None, [], float("nan"), float("inf"), True, False])
def test_a_quantity_is_a_whole_number(quantity: object) -> None:
    with pytest.raises(ValidationError):
        Item.model_validate({"product_id": "P", "quantity": quantity, "price": "1"})


def test_totals_are_exact() -> None:
    order = an_order(
        items=[
            {"product_id": "P", "quantity": 3, "price": 0.1},
            {"product_id": "P", "quantity": 1, "price": 0.2},
        ]
    )
    assert amounts.lines_total(order) == Decimal("0.50")
    assert order.wanted == {"P": 4}
    assert amounts.lines_total(an_order()) == Decimal("1059.97")


def test_what_is_left_out() -> None:
    order = Order.model_validate(
        {"id": "A", "customer_id": "C", "items": [], "total_amount": 1, "currency": "usd"}
    )
    assert (order.currency, order.tax_amount, order.shipping_amount, order.discount_amount) == (
        "USD",
        0,
        0,
        0,
    )
    assert order.payment_info is None
    assert order.shipping_info is None


@pytest.mark.parametrize("field", ["currency", "shipping_info.country"])
def test_no_default_decides_about_money_or_a_parcel(field: str) -> None:
    content = json.loads(json.dumps(EXAMPLE))
    part = content["shipping_info"] if "." in field else content
    del part[field.rpartition(".")[2]]
    with pytest.raises(ValidationError, match="Field required"):
        Order.model_validate(content)
    schema = Order.model_json_schema()
    assert "currency" in schema["required"]
    assert "country" in schema["$defs"]["ShippingInfo"]["required"]


def test_what_was_stored_without_currency_and_country_is_read_as_before() -> None:
    content = json.loads(json.dumps(EXAMPLE))
    del content["currency"], content["shipping_info"]["country"]
    assert read_stored(content) == an_order()
    assert read_stored({**content, "currency": "EUR", "shipping_info": None}).currency == "EUR"


def test_an_order_read_again_is_the_same() -> None:
    text = an_order().model_dump_json()
    assert Order.model_validate_json(text) == an_order()
    assert Order.model_validate_json(text).model_dump_json() == text


def test_the_form_s_numbers_have_ends() -> None:
    """The Prefect server refuses what is larger (409):
    of an integer of more than 64 bits it could list no runs any more."""

    def numbers(schema: Any) -> list[dict[str, Any]]:
        if isinstance(schema, list):
            return [found for part in schema for found in numbers(part)]
        if not isinstance(schema, dict):
            return []
        here = [schema] if schema.get("type") in {"integer", "number"} else []
        return here + [found for part in schema.values() for found in numbers(part)]

    found = numbers(Order.model_json_schema())
    assert len(found) > 6
    assert all(-(10**12) < number["minimum"] < number["maximum"] < 10**12 for number in found)


@pytest.mark.parametrize("large", [10**12, -(10**12), 10**29, 10**400])
def test_a_quantity_is_not_without_end(large: int) -> None:
    with pytest.raises(ValidationError, match="quantity"):
        Item(product_id="P", quantity=large, price="1")
    assert not is_well_shaped({"items": [{**EXAMPLE["items"][0], "quantity": large}]})
    assert is_well_shaped({"items": [{**EXAMPLE["items"][0], "quantity": large // abs(large)}]})


def test_large_numbers_in_unknown_fields_get_no_run_of_their_own() -> None:
    """What is well-shaped is stored without them, and what is not is for the pending lane."""
    assert is_well_shaped({"more": {"number": 10**25}})
    assert "more" not in take_in({**EXAMPLE, "more": {"number": 10**25}}).text
    assert not is_well_shaped({"more": {"number": 10**25, "card_number": "4242424242424242"}})


def is_well_shaped(changes: dict[str, Any]) -> bool:
    return trigger.is_well_shaped(take_in({**EXAMPLE, **changes}))


def test_a_form_s_defaults_fit_its_schema() -> None:
    """The Prefect UI sends them, and the server refuses a run whose parameters do not fit."""
    definitions = Order.model_json_schema()["$defs"] | {"Order": Order.model_json_schema()}
    wrong = [
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, schema in definition["properties"].items()
        if "default" in schema
        and not Draft202012Validator({**schema, "$defs": definitions}).is_valid(schema["default"])
    ]
    assert wrong in ([], ["PaymentInfo.card_last4"])  # the form leaves out an empty text
