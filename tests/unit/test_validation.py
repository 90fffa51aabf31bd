"""Every rule of a sensible order, with its place;
and that nothing that anybody sends makes validation fail."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pycountry
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shop.orders.errors import OrderRejected, Problem, UnusableOrder
from shop.orders.intake_content import take_in
from shop.orders.order import EXAMPLE, Order
from shop.orders.parts import METHODS
from shop.orders.validation import validate
from shop.settings import Settings
from shop.values import money

relaxed = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITS = Settings(_env_file=None)
SAMPLES = Path(__file__).resolve().parents[2] / "deployments" / "samples"


class Shelf:
    """A catalogue that remembers what it was asked."""

    def __init__(self, *product_ids: str) -> None:
        self.product_ids, self.asked = {"PROD-001", "PROD-002", *product_ids}, list[set[str]]()

    async def known(self, product_ids: set[str]) -> set[str]:
        self.asked.append(product_ids)
        return product_ids & self.product_ids


class Everything:
    """A catalogue that has any product."""

    async def known(self, product_ids: set[str]) -> set[str]:
        return product_ids


async def verdict_on(content: Mapping[str, Any], limits: Settings = LIMITS) -> Order | OrderRejected:
    (verdict,) = await validate([content], Shelf(), limits)
    return verdict


async def problems_of(content: Mapping[str, Any], limits: Settings = LIMITS) -> list[Problem]:
    verdict = await verdict_on(content, limits)
    assert isinstance(verdict, OrderRejected)
    return list(verdict.problems)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The example with something else at that place; `None` as a path part takes the list's only element."""
    order: dict[str, Any] = json.loads(
        json.dumps({**EXAMPLE, "items": EXAMPLE["items"][:1], "total_amount": "999.99"})
    )
    *way, last = path.replace("[", ".").replace("]", "").split(".")
    inner: Any = order
    for part in way:
        inner = inner[int(part) if part.isdigit() else part]
    inner[int(last) if last.isdigit() else last] = value
    return order


def without(path: str) -> dict[str, Any]:
    order = changed(path, None)
    *way, last = path.replace("[", ".").replace("]", "").split(".")
    inner: Any = order
    for part in way:
        inner = inner[int(part) if part.isdigit() else part]
    del inner[last]
    return order


# -- the good ones


async def test_the_example_is_valid() -> None:
    assert await verdict_on(EXAMPLE) == Order.model_validate(EXAMPLE)


@pytest.mark.parametrize(
    "order",
    [
        without("payment_info"),
        without("shipping_info"),
        without("customer_name"),
        without("customer_email"),
        changed("customer_email", "pat@straße.example"),
        changed("customer_email", None),
        without("customer_id"),  # a guest
        changed("customer_id", " \t"),
        changed("customer_name", ""),
        changed("payment_info", None),
        changed("payment_info.token", ""),
        changed("total_amount", "1000.00"),
        changed("shipping_info.country", "de"),
        changed("shipping_info.zip", None),
        changed("currency", "eur"),
        changed("total_amount", "999.98"),
        changed("currency", "XCG"),
        {**changed("shipping_info.address2", "Apt 5"), "notes": None},
        changed("shipping_info.phone", "+1 555 123 4567"),
        {
            **changed("tax_amount", "80"),
            "shipping_amount": 5,
            "discount_amount": 10.5,
            "total_amount": "1074.49",
        },
        {
            **changed("currency", "JPY"),
            "items": [{"product_id": "PROD-001", "quantity": 3, "price": 500}],
            "total_amount": "1500",
        },
        {
            **changed("currency", "KWD"),
            "items": [{"product_id": "PROD-001", "quantity": 3, "price": "0.005"}],
            "total_amount": "0.015",
        },
        {
            **changed("unknown", {"x": [1]}),
            "items": [{"product_id": "PROD-001", "quantity": 100_000, "price": 10}],
            "total_amount": 1_000_000,
        },
    ],
)
async def test_other_valid_orders(order: dict[str, Any]) -> None:
    assert isinstance(await verdict_on(order), Order)


# -- every rule

LONG = "x" * 201


def charged_for_nothing(path: str, value: Any, shipping: str) -> dict[str, Any]:
    """The sum is right, and comes from the shipping."""
    return {**changed(path, value), "shipping_amount": shipping, "total_amount": "10"}


def characters(text: str) -> str:
    return f"text of {len(text)} character{'s' if len(text) > 1 else ''}"


many = {**EXAMPLE, "items": [{"product_id": "PROD-001", "quantity": 100_001, "price": "0.01"}]}
ONE_RULE_BROKEN: list[tuple[dict[str, Any], str, str, str]] = [
    # required, and not empty
    (without("items"), "items", "nothing", "a value"),
    (without("total_amount"), "total_amount", "nothing", "a value"),
    (without("currency"), "currency", "nothing", "a value"),
    (changed("currency", None), "currency", "nothing", "text"),
    (without("shipping_info.country"), "shipping_info.country", "nothing", "a value"),
    (without("items[0].product_id"), "items[0].product_id", "nothing", "a value"),
    (without("items[0].quantity"), "items[0].quantity", "nothing", "a value"),
    (without("items[0].price"), "items[0].price", "nothing", "the price of one piece, or a line_total"),
    (without("payment_info.method"), "payment_info.method", "nothing", "a value"),
    (without("shipping_info.address"), "shipping_info.address", "nothing", "a value"),
    (changed("customer_id", ["C"]), "customer_id", "a list of 1", "text"),
    (changed("items[0].product_id", ""), "items[0].product_id", "nothing", "a product's id"),
    (changed("shipping_info.address", ""), "shipping_info.address", "nothing", "text that is not empty"),
    (changed("shipping_info.city", " "), "shipping_info.city", "nothing", "text that is not empty"),
    # items
    (changed("items", []), "items", "none", "at least one item"),
    (changed("items", {}), "items", "an object", "a list"),
    (changed("items", "PROD-001"), "items", "text of 8 characters", "a list"),
    (
        changed("items", ["PROD-001"]),
        "items[0]",
        "text of 8 characters",
        "an object",
    ),
    (
        changed("items[0].product_id", "PROD-999"),
        "items[0].product_id",
        "'PROD-999'",
        "a product in the catalogue",
    ),
    (
        changed("items[0].product_id", LONG),
        "items[0].product_id",
        "text of 201 characters",
        "a product in the catalogue",
    ),
    (
        charged_for_nothing("items[0].quantity", 0, "10"),
        "items[0].quantity",
        "0",
        "a whole number from 1 to 100000",
    ),
    (
        charged_for_nothing("items[0].quantity", -1, "1009.99"),
        "items[0].quantity",
        "-1",
        "a whole number from 1 to 100000",
    ),
    ({**many, "total_amount": "1000.01"}, "items[0].quantity", "100001", "a whole number from 1 to 100000"),
    (
        changed("items[0].quantity", "many"),
        "items[0].quantity",
        "text of 4 characters",
        "a whole number",
    ),
    (changed("items[0].quantity", 1.5), "items[0].quantity", "1.5", "a whole number"),
    (changed("items[0].quantity", "1.5"), "items[0].quantity", "1.5", "a whole number"),
    (charged_for_nothing("items[0].price", "-1", "11"), "items[0].price", "-1.00", "0 or more"),
    (changed("items[0].price", "cheap"), "items[0].price", "text of 5 characters", "an amount such as 9.99"),
    (changed("items[0].price", True), "items[0].price", "True", "an amount such as 9.99"),
    (changed("items[0].price", "NaN"), "items[0].price", "text of 3 characters", "a finite amount"),
    (
        changed("items[0].price", 10**12),
        "items[0].price",
        "1000000000000",
        "an amount of at most 12 digits before the point",
    ),
    (
        changed("items[0].price", "1.2345678"),
        "items[0].price",
        "1.2345678",
        "an amount of at most 6 decimals",
    ),
    # the sum
    (changed("total_amount", 0), "total_amount", "0.00", "999.99 (items)"),
    (changed("total_amount", -100), "total_amount", "-100.00", "0 or more, at most 1000000"),
    (changed("total_amount", "1000000.01"), "total_amount", "1000000.01", "0 or more, at most 1000000"),
    (
        changed("total_amount", "999.97"),
        "total_amount",
        "999.97",
        "999.99 (items)",
    ),
    (changed("items[0].quantity", True), "items[0].quantity", "True", "a whole number"),
    (changed("total_amount", "999.985"), "total_amount", "999.985", "at most 2 decimals (USD)"),
    (changed("total_amount", "a lot"), "total_amount", "text of 5 characters", "an amount such as 9.99"),
    (changed("tax_amount", "10"), "total_amount", "999.99", "1009.99 (items + tax)"),
    (
        changed("shipping_amount", "10"),
        "total_amount",
        "999.99",
        "1009.99 (items + shipping)",
    ),
    (
        changed("discount_amount", "10"),
        "total_amount",
        "999.99",
        "989.99 (items - discount)",
    ),
    ({**changed("tax_amount", "-1"), "total_amount": "998.99"}, "tax_amount", "-1.00", "0 or more"),
    ({**changed("shipping_amount", "-1"), "total_amount": "998.99"}, "shipping_amount", "-1.00", "0 or more"),
    (
        {**changed("discount_amount", "-1"), "total_amount": "1000.99"},
        "discount_amount",
        "-1.00",
        "0 or more",
    ),
    (changed("tax_amount", "0.001"), "tax_amount", "0.001", "at most 2 decimals (USD)"),
    (changed("tax_amount", "none"), "tax_amount", "text of 4 characters", "an amount such as 9.99"),
    # currency
    (changed("currency", "XXX"), "currency", "XXX", "an ISO 4217 code such as USD"),
    (changed("currency", ""), "currency", "nothing", "an ISO 4217 code such as USD"),
    (changed("currency", "dollars"), "currency", "text of 7 characters", "an ISO 4217 code such as USD"),
    # customer
    (changed("customer_id", LONG), "customer_id", "201 characters", "at most 200 characters"),
    (changed("customer_name", LONG), "customer_name", "201 characters", "at most 200 characters"),
    (
        changed("customer_email", "john"),
        "customer_email",
        "text of 4 characters",
        "an e-mail address such as name@example.com",
    ),
    (
        changed("customer_email", "a@b"),
        "customer_email",
        "text of 3 characters",
        "an e-mail address such as name@example.com",
    ),
    (
        changed("customer_email", "a@b.c, d@e.f"),
        "customer_email",
        "text of 12 characters",
        "an e-mail address such as name@example.com",
    ),
    (
        changed("customer_email", "a@b..c"),
        "customer_email",
        "text of 6 characters",
        "an e-mail address such as name@example.com",
    ),
    (
        changed("customer_email", "a@-ü.example"),
        "customer_email",
        "text of 12 characters",
        "an e-mail address whose domain can exist",
    ),
    # payment
    (
        changed("payment_info.method", "shells"),
        "payment_info.method",
        "text of 6 characters",
        "one of " + ", ".join(METHODS),
    ),
    (
        changed("payment_info.method", ""),
        "payment_info.method",
        "nothing",
        "one of " + ", ".join(METHODS),
    ),
    (
        changed("payment_info.card_last4", "123"),
        "payment_info.card_last4",
        "3 characters",
        "the card's last four digits",
    ),
    (
        changed("payment_info.card_last4", "12345"),
        "payment_info.card_last4",
        "5 characters",
        "the card's last four digits",
    ),
    (
        changed("payment_info.card_last4", "١٢٣٤"),
        "payment_info.card_last4",
        "4 characters",
        "the card's last four digits",
    ),
    (
        changed("payment_info.token", "t" * 256),
        "payment_info.token",
        "256 characters",
        "at most 255",
    ),
    (
        changed("payment_info", "cash"),
        "payment_info",
        "text of 4 characters",
        "an object",
    ),
    # address
    *(
        (
            changed("shipping_info.country", code),
            "shipping_info.country",
            characters(code),
            f"an ISO 3166 code of two letters: {meant}",
        )
        for code, meant in (("UK", "GB"), ("uk", "GB"), ("EL", "GR"), ("USA", "US"), ("Germany", "DE"))
    ),
    *(
        (
            changed("shipping_info.country", code),
            "shipping_info.country",
            characters(code),
            "an ISO 3166 code of two letters",
        )
        for code in ("XX", "ZZ", "AA", "EU", "AN", "1A", "D", "\u00df", "D\u00c9")
    ),
    (changed("shipping_info.address2", LONG), "shipping_info.address2", "201 characters", "at most 200"),
    (changed("shipping_info.phone", LONG), "shipping_info.phone", "201 characters", "at most 200"),
    (
        changed("shipping_info.country", ""),
        "shipping_info.country",
        "nothing",
        "an ISO 3166 code of two letters",
    ),
    (changed("shipping_info.zip", LONG), "shipping_info.zip", "201 characters", "at most 200"),
    (changed("shipping_info.name", LONG), "shipping_info.name", "201 characters", "at most 200"),
    (changed("shipping_info.address", LONG), "shipping_info.address", "201 characters", "at most 200"),
]


@pytest.mark.parametrize(
    ("order", "place", "given", "expected"),
    ONE_RULE_BROKEN,
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
async def test_each_rule_reports_place_problem_and_correction(
    order: dict[str, Any], place: str, given: str, expected: str
) -> None:
    assert await problems_of(order) == [Problem(place, given, expected)]


@pytest.mark.parametrize(
    ("currency", "price", "allowed"),
    [
        ("JPY", "500", 0),
        ("JPY", "500.5", 0),
        ("KRW", "0.01", 0),
        ("USD", "5.55", 2),
        ("USD", "5.555", 2),
        ("KWD", "5.555", 3),
        ("KWD", "5.5555", 3),
    ],
)
async def test_as_many_decimals_as_the_currency_has(currency: str, price: str, allowed: int) -> None:
    order = {
        **EXAMPLE,
        "currency": currency,
        "items": [{"product_id": "PROD-001", "quantity": 1, "price": price}],
        "total_amount": price,
    }
    verdict = await verdict_on(order)
    if -Decimal(price).normalize().as_tuple().exponent <= allowed:  # type: ignore[operator]
        assert isinstance(verdict, Order)
    else:
        assert isinstance(verdict, OrderRejected)
        expected = f"at most {allowed} decimals ({currency})"
        assert [(p.place, p.expected) for p in verdict.problems] == [
            ("total_amount", expected),
        ]


async def test_limits_are_settings() -> None:
    strict = Settings(_env_file=None, MAX_ITEMS=1, MAX_QUANTITY=1, MAX_ORDER_TOTAL=Decimal(1000))
    assert await problems_of(EXAMPLE, strict) == [
        Problem("items", "2 items", "at most 1 items"),
        Problem("total_amount", "1059.97", "0 or more, at most 1000"),
    ]
    assert await problems_of({**changed("items[0].quantity", 2), "total_amount": "1000"}, strict) == [
        Problem("items[0].quantity", "2", "a whole number from 1 to 1"),
        Problem("total_amount", "1000.00", "1999.98 (items)"),
    ]


# -- all at once


async def test_the_sample_order_gives_exactly_its_three_reasons() -> None:
    order = json.loads((SAMPLES / "02-invalid.json").read_text())["orders"][0]
    for content in (order, json.loads(take_in(order).text)):
        assert await problems_of(content) == [
            Problem("items", "none", "at least one item"),
            Problem("customer_id", "nothing", "the customer's id, or a customer_email for a guest"),
            Problem("total_amount", "-100.00", "0 or more, at most 1000000"),
        ]
    verdict = await verdict_on(order)
    assert isinstance(verdict, OrderRejected)
    assert verdict.reasons() == [
        "items: got none, expected at least one item",
        "customer_id: got nothing, expected the customer's id, or a customer_email for a guest",
        "total_amount: got -100.00, expected 0 or more, at most 1000000",
    ]
    assert [problem["place"] for problem in verdict.details()["problems"]] == [
        "items",
        "customer_id",
        "total_amount",
    ]


EVERYTHING_WRONG = {
    "id": "A",
    "customer_id": LONG,
    "customer_name": LONG,
    "customer_email": "john",
    "currency": "XXX",
    "items": [
        {"product_id": "", "quantity": 0, "price": -1},
        {"product_id": "PROD-999", "quantity": 1, "price": 1},
        {"quantity": "many", "price": "cheap"},
        "PROD-001",
    ],
    "total_amount": -1,
    "tax_amount": -1,
    "discount_amount": "none",
    "payment_info": {"method": "shells", "card_last4": "1"},
    "shipping_info": {"address": "", "city": "", "country": "USA"},
}
PLACES_OF_IT = {
    *(
        "customer_id",
        "customer_name",
        "customer_email",
        "currency",
        "total_amount",
        "tax_amount",
        "discount_amount",
    ),
    *("items[0].product_id", "items[0].quantity", "items[0].price", "items[1].product_id"),
    *("items[2].product_id", "items[2].quantity", "items[2].price", "items[3]"),
    *(
        "payment_info.method",
        "payment_info.card_last4",
        "shipping_info.address",
        "shipping_info.city",
        "shipping_info.country",
    ),
}


async def test_all_problems_at_once() -> None:
    """Also those that can be seen only when the order's shape is right, in an order whose shape is not."""
    problems = await problems_of(EVERYTHING_WRONG)
    assert sorted(p.place for p in problems) == sorted(PLACES_OF_IT)


async def test_the_shape_of_one_field_does_not_change_the_report_on_another() -> None:
    broken = {
        **changed("items[0].quantity", "many"),
        "customer_id": LONG,
        "currency": " usd ",
        "customer_email": " john.doe@example.com ",
    }
    assert {p.place for p in await problems_of(broken)} == {"items[0].quantity", "customer_id"}


async def test_many_orders_each_with_its_own_verdict() -> None:
    contents = [
        EXAMPLE,
        EVERYTHING_WRONG,
        {**EXAMPLE, "id": "B"},
        {"id": "C"},
        changed("items[0].quantity", 0),
    ]
    shelf = Shelf()
    verdicts = await validate(contents, shelf, LIMITS)
    assert [type(v) for v in verdicts] == [Order, OrderRejected, Order, OrderRejected, OrderRejected]
    assert [v.id for v in verdicts if isinstance(v, Order)] == ["ORDER-1001", "B"]
    alone = [await verdict_on(content) for content in contents]
    assert [str(v) for v in verdicts] == [str(v) for v in alone]
    assert len(shelf.asked) == 1, "the catalogue is asked once for all"


async def test_the_catalogue_is_asked_while_the_other_checks_run() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Slow:
        async def known(self, product_ids: set[str]) -> set[str]:
            asked.set()
            await may_answer.wait()
            return product_ids

    validating = asyncio.create_task(validate([EXAMPLE], Slow(), LIMITS))
    await asyncio.wait_for(asked.wait(), 5)
    may_answer.set()
    assert isinstance((await validating)[0], Order)


# -- what intake took out

CARD = "4111111111111111"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("payment_info.card_last4", "payment_info.card_last4"),
        ("payment_info.token", "payment_info.token"),
        ("payment_info.card_number", "payment_info.card_number"),
        ("payment_info.number", "payment_info.number"),
        ("items[0].quantity", "items[0].quantity"),
        ("items[0].price", "items[0].price"),
        ("items[0].pan", "items[0].pan"),
        ("total_amount", "total_amount"),
    ],
)
@pytest.mark.parametrize("card", [CARD, int(CARD)])
async def test_a_card_number_is_reported_by_place_without_its_digits(
    path: str, place: str, card: object
) -> None:
    problems = await problems_of(json.loads(take_in(changed(path, card)).text))
    assert problems == [Problem(place, "(removed)", "nothing of the kind: it looked like a card number")]
    assert "1111" not in str(problems)


async def test_a_security_code_is_reported() -> None:
    order = changed("payment_info.cvv", "123")
    assert await problems_of(json.loads(take_in(order).text)) == [
        Problem("payment_info.cvv", "(removed)", "nothing of the kind: it looked like a card's security code")
    ]


async def test_a_misnamed_field_is_reported_with_the_right_name() -> None:
    """Beside everything else that is wrong, and instead of saying that the right one is missing."""
    order = without("currency") | {"currency_code": "jpy", "customer_id": LONG}
    order["shipping_info"] = {
        "address": "1 Some St",
        "adress2": "Apt 5",
        "city": "Berlin",
        "countryCode": "DE",
        "postcode": "10115",
    }
    assert sorted(await problems_of(json.loads(take_in(order).text)), key=str) == sorted(
        [
            Problem("currency_code", "a field of another name", "currency"),
            Problem("shipping_info.adress2", "a field of another name", "shipping_info.address2"),
            Problem("shipping_info.countryCode", "a field of another name", "shipping_info.country"),
            Problem("shipping_info.postcode", "a field of another name", "shipping_info.zip"),
            Problem("customer_id", "201 characters", "at most 200 characters"),
        ],
        key=str,
    )


async def test_a_part_that_names_another_currency_than_the_order_is_refused() -> None:
    order = copy.deepcopy({**EXAMPLE, "currency": "USD"})
    order["items"][0]["currency"] = "JPY"
    order["payment_info"]["currency_code"] = "EUR"
    order["shipping_info"]["currency"] = "usd"
    assert sorted(problem.place for problem in await problems_of(json.loads(take_in(order).text))) == [
        "items[0].currency",
        "payment_info.currency_code",
    ]


@pytest.mark.parametrize(
    ("key", "meant"), [("house_number", "address"), ("address_line_3", "address2"), ("HouseNo", "address")]
)
async def test_a_part_of_an_address_that_would_vanish_is_refused(key: str, meant: str) -> None:
    """Although the field that it belongs to holds something."""
    order = copy.deepcopy(EXAMPLE)
    order["shipping_info"] |= {"address": "Main St", "address2": "Apt 5", key: "12"}
    problems = await problems_of(json.loads(take_in(order).text))
    assert problems == [Problem(f"shipping_info.{key}", "a field of another name", f"shipping_info.{meant}")]


async def test_what_the_version_before_removed_is_reported_as_before() -> None:
    stored = {**EXAMPLE, "unknown": {"x": "[removed: looked like a card number]"}, "~removed": True}
    assert await problems_of(stored) == [
        Problem("unknown.x", "(removed)", "nothing of the kind: it looked like a card number")
    ]


async def test_what_was_taken_out_always_has_a_reason() -> None:
    deep: Any = "end"
    for _ in range(20):
        deep = [deep]
    for order in (
        changed("notes", "a\x00b"),
        changed("notes", deep),
        changed("items", [EXAMPLE["items"][0]] * 2_000),
    ):
        assert await problems_of(json.loads(take_in(order).text))


# -- anything

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["USD", "JPY", "credit_card", "PROD-001", "1e3", "NaN", "-0", "a@b.c", "US"]),
)
numbers = st.one_of(
    st.integers(-5, 5), st.integers(), st.just(10**400), st.floats(), st.sampled_from([0.1, 1e22, 2.5])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def objects(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), values, max_size=5)


parts = st.fixed_dictionaries(
    {},
    optional={
        "items": st.one_of(
            values,
            st.lists(st.one_of(objects(["product_id", "quantity", "price", "name"]), values), max_size=4),
        ),
        "payment_info": st.one_of(values, objects(["method", "card_last4", "token"])),
        "shipping_info": st.one_of(values, objects(["name", "address", "city", "state", "zip", "country"])),
        "total_amount": values,
        "currency": st.one_of(values, st.sampled_from(["JPY", "KWD", "usd"])),
    },
)
contents = st.builds(
    lambda base, loose, some: {**base, **loose, **some},
    st.sampled_from([{}, EXAMPLE, changed("notes", "x")]),
    st.dictionaries(st.one_of(st.sampled_from(list(Order.model_fields)), texts), values, max_size=4),
    parts,
)


@relaxed
@given(st.lists(contents, max_size=3))
@example([{**EXAMPLE, "total_amount": 10**400}])
@example([changed("items[0].quantity", 10**400)])
async def test_any_content_gets_a_verdict(many: list[dict[str, Any]]) -> None:
    verdicts = await validate(many, Everything(), LIMITS)
    assert len(verdicts) == len(many)
    for content, verdict in zip(many, verdicts, strict=True):
        if isinstance(verdict, Order):
            assert_sensible(verdict)
            assert verdict == Order.model_validate(content)
        else:
            assert verdict.problems
            assert all(p.place and p.given and p.expected for p in verdict.problems)
            json.dumps(verdict.details()).encode()


@relaxed
@given(contents)
async def test_whatever_is_taken_in_gets_a_verdict(content: dict[str, Any]) -> None:
    try:
        stored = json.loads(take_in({**content, "id": "A"}).text)
    except UnusableOrder:  # pragma: no cover
        pytest.fail("the id is usable")
    (verdict,) = await validate([stored], Everything(), LIMITS)
    if isinstance(verdict, Order):
        assert_sensible(verdict)
    else:
        assert verdict.problems


def assert_sensible(order: Order) -> None:
    """The rules, written down a second time."""
    assert (order.customer_id or order.customer_email or "").strip()
    assert 1 <= len(order.items) <= LIMITS.orders.max_items
    assert money.is_currency(order.currency)
    unit = money.from_minor(1, order.currency)
    charges = [
        order.total_amount,
        order.tax_amount,
        order.shipping_amount,
        order.discount_amount,
    ]
    assert all(money.fits(amount, order.currency) and amount >= 0 for amount in charges)
    total = order.tax_amount + order.shipping_amount - order.discount_amount
    for item in order.items:
        assert item.product_id
        assert 0 < item.quantity <= LIMITS.orders.max_quantity
        assert item.price is not None
        assert item.price >= 0
        total += money.round_to(item.price * item.quantity, order.currency)
    assert 0 <= order.total_amount <= LIMITS.orders.max_total(order.currency)
    assert abs(order.total_amount - total) <= unit * len(order.items)
    if order.payment_info:
        assert order.payment_info.method in METHODS
    if order.shipping_info:
        assert order.shipping_info.address
        assert order.shipping_info.city
        assert pycountry.countries.get(alpha_2=order.shipping_info.country.upper()) is not None


currencies = st.sampled_from(["USD", "EUR", "JPY", "KWD"])


@st.composite
def good_orders(draw: st.DrawFn) -> dict[str, Any]:
    currency = draw(currencies)

    def amount(least: int, most: int) -> Decimal:
        return money.from_minor(draw(st.integers(least, most)), currency)

    items = [
        {
            "product_id": draw(st.sampled_from(["A", "B", "Größe-XL"])),
            "quantity": draw(st.integers(1, 50)),
            "price": amount(1, 5_000),
        }
        for _ in range(draw(st.integers(1, 4)))
    ]
    tax, shipping = amount(0, 1_000), amount(0, 1_000)
    total = sum((item["price"] * item["quantity"] for item in items), Decimal(0)) + tax + shipping  # type: ignore[operator]
    discount = draw(st.sampled_from([Decimal(0), total - money.from_minor(1, currency)]))
    return {
        "id": "A",
        "customer_id": "C",
        "currency": currency,
        "items": items,
        "tax_amount": tax,
        "shipping_amount": shipping,
        "discount_amount": discount,
        "total_amount": total - discount,
    }


def respelled(value: Any, draw: st.DrawFn) -> Any:
    """Every amount in it as some shop writes it."""
    if isinstance(value, Decimal):
        whole = [int(value)] if value == int(value) else []
        return draw(
            st.sampled_from([str(value), f"{value:f}", f"{value:e}", float(value), f" {value:f}", *whole])
        )
    if isinstance(value, dict):
        return {key: respelled(inner, draw) for key, inner in value.items()}
    return [respelled(inner, draw) for inner in value] if isinstance(value, list) else value


@relaxed
@given(good_orders(), st.data())
async def test_a_valid_order_is_valid_however_its_money_is_spelled(
    order: dict[str, Any], data: st.DataObject
) -> None:
    spellings = [order, *(respelled(order, data.draw) for _ in range(2))]
    first, *others = await validate(spellings, Everything(), LIMITS)
    assert isinstance(first, Order)
    assert_sensible(first)
    assert others == [first, first]
    prints = {take_in(json.loads(json.dumps(each, default=str))).fingerprint for each in spellings}
    assert len(prints) == 1


@relaxed
@given(good_orders(), st.integers(2, 10**6), st.sampled_from([-1, 1]))
async def test_a_total_that_is_off_by_more_than_a_unit_is_not_valid(
    order: dict[str, Any], units: int, sign: int
) -> None:
    off = money.from_minor(units, order["currency"])
    (verdict,) = await validate(
        [{**order, "total_amount": order["total_amount"] + sign * off}], Everything(), LIMITS
    )
    assert isinstance(verdict, OrderRejected)
    assert [p.place for p in verdict.problems] == ["total_amount"]


@relaxed
@given(good_orders())
async def test_a_total_may_be_a_unit_off(order: dict[str, Any]) -> None:
    """In any currency: shops round."""
    unit = money.from_minor(1, order["currency"])
    more, less = ({**order, "total_amount": order["total_amount"] + off} for off in (unit, -unit))
    assert all(isinstance(taken, Order) for taken in await validate([more, less], Everything(), LIMITS))


@pytest.mark.parametrize("currency", ["USD", "EUR", "VND", "IDR", "KRW", "JPY", "KWD", "IRR", "COP"])
async def test_the_limit_of_a_total_knows_the_currency(currency: str) -> None:
    """What is worth some hundred dollars is charged, what is worth thousands of millions is not."""
    per_dollar = {"VND": 26_000, "IDR": 16_500, "KRW": 1_400, "JPY": 150, "IRR": 42_000, "COP": 4_000}.get(
        currency, 1
    )

    def worth(dollars: int) -> dict[str, Any]:
        price = str(dollars * per_dollar)
        items = [{"product_id": "PROD-001", "quantity": 1, "price": price}]
        return {**EXAMPLE, "currency": currency, "items": items, "total_amount": price}

    assert isinstance(await verdict_on(worth(500)), Order)
    assert isinstance(await verdict_on(worth(300_000)), Order)
    if (too_much := 100_000_000) * per_dollar < 10**12:
        assert [p.place for p in await problems_of(worth(too_much))] == ["total_amount"]


async def test_the_limit_of_a_currency_is_a_setting() -> None:
    limits = Settings(
        _env_file=None, MAX_ORDER_TOTAL=Decimal(100), MAX_ORDER_TOTAL_BY_CURRENCY={"jpy": Decimal(1_500)}
    )
    order = {
        **EXAMPLE,
        "currency": "JPY",
        "items": [{"product_id": "PROD-001", "quantity": 1, "price": 1_501}],
        "total_amount": 1_501,
    }
    assert await problems_of(order, limits) == [Problem("total_amount", "1501.00", "0 or more, at most 1500")]
    with pytest.raises(ValidationError, match="ISO 4217"):
        Settings(_env_file=None, MAX_ORDER_TOTAL_BY_CURRENCY={"XXX": Decimal(1)})
