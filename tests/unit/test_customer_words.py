"""Nothing that a customer typed is repeated when an order is refused, or when others repeat it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shop.customer_words import HIDDEN, without_customer
from shop.errors import OrderError, OrderRejected
from shop.intake_content import take_in
from shop.monitoring.masking import mask_exception
from shop.order import EXAMPLE, Order
from shop.settings import Settings
from shop.validation import validate

PLANTED = "Zq7Planted"
LEAK = re.compile(r"zq7planted|5550199\d*", re.IGNORECASE)
TOP = ("customer_id", "customer_name", "customer_email", "notes", "payment_info", "shipping_info", "items", "currency", "total_amount")
MONEY = ("total_amount", "tax_amount", "shipping_amount", "discount_amount")
PAYMENT = ("method", "card_last4", "token")
ADDRESS = ("name", "address", "address2", "city", "state", "zip", "country", "phone")
ITEM = ("product_id", "quantity", "price", "name")
PLACES = [
    *((name,) for name in (*TOP, *MONEY)),
    *(("payment_info", name) for name in PAYMENT),
    *(("shipping_info", name) for name in ADDRESS),
    *(("items", 0, name) for name in ITEM),
]
# What people and programs put where it does not belong: with a blank, as a product's id may be anything that looks like one.
VALUES = [
    f"{PLANTED} Street 9",
    f"  {PLANTED} of Town ",
    f"{PLANTED} @ nowhere",
    f"{PLANTED} " * 40,
    f"{PLANTED} " * 400,
    f"{PLANTED} \x1b[31m",
    f"{PLANTED} \u202e",
    [f"{PLANTED} 1"],
    [[f"{PLANTED} 1"]],
    {"line1": f"{PLANTED} 1"},
    {f"{PLANTED} 1": {"cvv": f"{PLANTED} 123"}},
    {"card number": f"{PLANTED} 4242424242424242"},
]


class NoProducts:
    async def known(self, product_ids: set[str]) -> set[str]:
        return set()


def changed(changes: Mapping[tuple[Any, ...], Any]) -> dict[str, Any]:
    order = copy.deepcopy(EXAMPLE)
    for place, value in changes.items():
        at: Any = order
        for part in place[:-1]:
            at = at[part] if isinstance(at, list) and at else at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at[place[-1]] = value
    return order


async def refusal_of(order: Mapping[str, Any]) -> OrderError:
    stored = json.loads(take_in(order).text)
    (verdict,) = await validate([stored], NoProducts(), Settings())
    assert isinstance(verdict, OrderRejected), "its products are not known"
    return verdict


def said(error: OrderError) -> str:
    return " ".join((str(error), repr(error), json.dumps(error.details()), *error.reasons()))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
async def test_every_field_with_every_kind_of_value(place: tuple[Any, ...]) -> None:
    for value in VALUES:
        refusal = await refusal_of(changed({place: value}))
        assert not LEAK.search(said(refusal)), (place, value, said(refusal))
        assert refusal.reasons()


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.sampled_from(PLACES), st.sampled_from(VALUES), max_size=6),
    st.dictionaries(
        st.sampled_from([f"{PLANTED} x", f"{PLANTED} x.cvv", "5550199 cvv", "card number", "cvv"]), st.sampled_from(VALUES), max_size=3
    ),
)
async def test_several_at_once_and_unknown_fields(changes: dict[tuple[Any, ...], Any], unknown: dict[str, Any]) -> None:
    refusal = await refusal_of({**changed(changes), **unknown})
    assert not LEAK.search(said(refusal)), said(refusal)


@pytest.mark.parametrize("place", [("customer_email",), ("shipping_info", "phone"), ("shipping_info", "zip"), ("customer_name",)])
@pytest.mark.parametrize("value", [5550199.5, [5550199], 5550199e40])
async def test_numbers_that_are_a_persons(place: tuple[Any, ...], value: object) -> None:
    assert not LEAK.search(said(await refusal_of(changed({place: value}))))


async def test_what_a_shop_needs_to_mend_it_is_said() -> None:
    refusal = await refusal_of(changed({("items", 0, "quantity"): -3, ("currency",): "XXX", ("customer_email",): "nobody"}))
    reasons = " ".join(refusal.reasons())
    for part in (
        "items[0].product_id",
        "'PROD-001'",
        "items[0].quantity: got -3",
        "currency: got XXX",
        "customer_email: got text of 6 characters",
    ):
        assert part in reasons


def test_an_order_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as error:
        Order.model_validate({**EXAMPLE, "customer_name": [PLANTED], "shipping_info": PLANTED})
    assert PLANTED not in str(error.value)


@given(
    st.sampled_from(["Zq7Planted Way 12", "zq7planted", "jane@zq7planted.example", "Ünal Zq7Planted"]),
    st.sampled_from([str.upper, str.lower, str]),
)
def test_others_may_repeat_it_in_any_case(value: str, change: Any) -> None:
    content = {"id": "O-1", "shipping_info": {"address": value}, "items": [{"product_id": "PROD-1", "name": "Zq7Planted"}]}
    shown = without_customer(f"O-1: carrier: no such street: {change(value)}; PROD-1", content)
    assert not LEAK.search(shown)
    assert shown.startswith("O-1: carrier: no such street: ")
    assert shown.endswith("PROD-1")
    assert HIDDEN in shown


def test_without_an_order_nothing_changes() -> None:
    assert without_customer("the carrier is away", {}) == "the carrier is away"


def test_a_traceback_repeats_no_row_and_no_input() -> None:
    text = """Traceback (most recent call last):
psycopg.errors.NotNullViolation: null value in column "x"
DETAIL:  Failing row contains (O-1, Zq7Planted).
pydantic_core.ValidationError: 1 validation error for Some
  Input should be a valid string [type=string_type, input_value=['Zq7Planted'], input_type=list]"""
    shown = mask_exception(text, Settings())
    assert not LEAK.search(shown)
    assert "NotNullViolation" in shown
    assert "input_type=list" in shown
