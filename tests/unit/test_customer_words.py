"""Nothing that a customer typed is repeated when an order is refused, or when others repeat it."""

from __future__ import annotations

import copy
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from saga.errors import StepError
from shop.monitoring.masking import mask_exception
from shop.orders.errors import OrderRejected
from shop.orders.intake_content import take_in
from shop.orders.order import EXAMPLE, Order
from shop.orders.validation import validate
from shop.settings import Settings
from shop.text.customer_words import HIDDEN, without_customer
from shop.text.sanitize import one_line, printable

PLANTED = "Zq7Planted"
LEAK = re.compile(r"zq7planted|5550199\d*", re.IGNORECASE)
TOP = (
    "customer_id",
    "customer_name",
    "customer_email",
    "notes",
    "payment_info",
    "shipping_info",
    "items",
    "currency",
    "total_amount",
)
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
# What people and programs put where it does not belong:
# with a blank, as a product's id may be anything that looks like one.
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


async def refusal_of(order: Mapping[str, Any]) -> StepError:
    stored = json.loads(take_in(order).text)
    (verdict,) = await validate([stored], NoProducts(), Settings())
    assert isinstance(verdict, OrderRejected), "its products are not known"
    return verdict


def shown_of(error: StepError) -> str:
    return " ".join((str(error), repr(error), json.dumps(error.details()), *error.reasons()))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
async def test_every_field_with_every_kind_of_value(place: tuple[Any, ...]) -> None:
    for value in VALUES:
        refusal = await refusal_of(changed({place: value}))
        assert not LEAK.search(shown_of(refusal)), (place, value, shown_of(refusal))
        assert refusal.reasons()


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.sampled_from(PLACES), st.sampled_from(VALUES), max_size=6),
    st.dictionaries(
        st.sampled_from([f"{PLANTED} x", f"{PLANTED} x.cvv", "5550199 cvv", "card number", "cvv"]),
        st.sampled_from(VALUES),
        max_size=3,
    ),
)
async def test_several_at_once_and_unknown_fields(
    changes: dict[tuple[Any, ...], Any], unknown: dict[str, Any]
) -> None:
    refusal = await refusal_of({**changed(changes), **unknown})
    assert not LEAK.search(shown_of(refusal)), shown_of(refusal)


@pytest.mark.parametrize(
    "place", [("customer_email",), ("shipping_info", "phone"), ("shipping_info", "zip"), ("customer_name",)]
)
@pytest.mark.parametrize("value", [5550199.5, [5550199], 5550199e40])
async def test_numbers_that_are_a_persons(place: tuple[Any, ...], value: object) -> None:
    assert not LEAK.search(shown_of(await refusal_of(changed({place: value}))))


async def test_what_a_shop_needs_for_the_repair_is_stated() -> None:
    refusal = await refusal_of(
        changed({("items", 0, "quantity"): -3, ("currency",): "XXX", ("customer_email",): "nobody"})
    )
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
    content = {
        "id": "O-1",
        "shipping_info": {"address": value},
        "items": [{"product_id": "PROD-1", "name": "Zq7Planted"}],
    }
    shown = without_customer(f"O-1: carrier: no such street: {change(value)}; PROD-1", content)
    assert not LEAK.search(shown)
    assert shown.startswith("O-1: carrier: no such street: ")
    assert shown.endswith("PROD-1")
    assert HIDDEN in shown


LETTERS = "abcdenrstzABCDEÜüéÉßẞİıŁłøñσςΣǅﬁＡ１9中山한국अिé\u0308\u00ad"
SPELLINGS: list[Callable[[str], str]] = [
    *(str, str.upper, str.lower, str.swapcase, str.casefold, str.title),
    *(lambda text, form=form: unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")),  # type: ignore[misc]
    *(
        lambda text: text.replace("ß", "ss").replace("ẞ", "SS"),
        lambda text: text.replace("ss", "ß"),
        "\u200b".join,
    ),
]


def left_of(shown: str, before: str, after: str = "") -> str:
    """The letters and digits that are shown between two texts."""
    assert shown.startswith(before)
    assert shown.endswith(after)
    return "".join(filter(str.isalnum, shown[len(before) : len(shown) - len(after)].replace(HIDDEN, "")))


@hypothesis_settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.text(LETTERS, min_size=1, max_size=8).filter(lambda word: len(word.strip("\u0308\u00adि")) > 1),
        min_size=2,
        max_size=10,
    ),
    st.lists(st.sampled_from(SPELLINGS), max_size=3),
    st.sampled_from([" ", "  ", "-", ", ", "\n", "' ", "\u00a0"]),
)
def test_however_a_value_is_spelled_none_of_it_is_shown(
    words: list[str], spellings: list[Callable[[str], str]], between: str
) -> None:
    repeated = between.join(words)
    for spelling in spellings:
        repeated = spelling(repeated)
    for content in (
        {"notes": " ".join(words)},
        {"items": [{"product_id": "P-1", "name": "".join((" ".join(words), "!"))}]},
    ):
        assert (
            left_of(
                without_customer(f"no such place: {repeated} (X.Y)", content), "no such place: ", " (X.Y)"
            )
            == ""
        )


@pytest.mark.parametrize(
    ("value", "repeated"),
    [
        ("+49 170 12345678", "4917012345678"),
        ("+49 170 12345678", "0170/123 456-78"),
        ("+49 170 12345678", "0049 (0)170 12345678"),
        ("017012345678", "+49 (170) 12.34.56.78"),
        ("Hauptstraße 5", "HAUPTSTRASSE 5"),
        ("Hauptstrasse 5", "hauptstraße, 5"),
        ("Müller", "Mu\u0308ller"),
        ("Mu\u0308ller", "MÜLLER"),
        ("José", "JOSE"),
        ("O'Neil", "O’NEIL"),
        ("O'Neil", "Oneil"),
        ("+٤٩ ١٧٠ ١٢٣٤٥٦٧٨", "4917012345678"),
        ("4-B", "4 b"),
        ("a b c d e f g h i j k l m n o p q", "A B C D E F G H I J K L M N O P Q"),
    ],
)
def test_spellings_of_which_none_is_shown(value: str, repeated: str) -> None:
    content = {"shipping_info": {"address": value, "country": "US"}}
    assert (
        left_of(without_customer(f"no such: {repeated}; try again", content), "no such: ", "; try again")
        == ""
    )


@hypothesis_settings(deadline=None)
@given(
    st.text("0123456789", min_size=8, max_size=15),
    st.lists(
        st.sampled_from(["", " ", "-", "/", ".", " (", ") ", "\u00a0", "\u200b"]), min_size=15, max_size=15
    ),
    st.booleans(),
    st.sampled_from([int, str]),
)
def test_however_a_phone_number_is_separated(
    digits: str, separators: list[str], national: bool, kind: type
) -> None:
    written = "0" + digits[2:] if national else digits
    repeated = "".join(digit + separator for digit, separator in zip(written, separators, strict=False))
    value = kind("1" + digits)
    shown = without_customer(f"bad number: +{repeated}, sorry", {"shipping_info": {"phone": value}})
    assert left_of(shown, "bad number: ", "sorry") == ""


@pytest.mark.parametrize("cut", [printable, one_line])
@pytest.mark.parametrize(
    "value", ["Rosenthaler Straße 12, 5 Et li", "Am Tor 5 b", "+49 170 12345678", "中山路 12"]
)
def test_where_a_text_was_cut_nothing_is_left_of_a_value(cut: Callable[[str, int], str], value: str) -> None:
    before = "no such place: "
    for spelled in (value, value.upper(), unicodedata.normalize("NFD", value)):
        for limit in range(len(before) + 3, len(before) + len(spelled) + 3):
            text = cut(f"{before}{spelled}; and so on", limit)
            shown = without_customer(text, {"shipping_info": {"address": value}})
            assert left_of(shown, before.rstrip()) == "", text


def test_a_long_text_is_cut_and_nothing_is_left_of_a_value() -> None:
    for blanks in range(9_970, 10_005):
        shown = without_customer(
            "." * blanks + " Rosenthaler Str 5" + " and so on" * 100_000, {"notes": "Rosenthaler Str 5"}
        )
        assert ("andsoon" * 10).startswith(left_of(shown, "." * 9_970))
        assert len(shown) < 10_100


def test_the_customer_comes_before_however_many_items() -> None:
    items = [{"product_id": f"P-{i}", "name": f"Ünusual {i} {'wört ' * 100}"} for i in range(1_000)]
    content = {"items": items, "customer_name": "Jane Zq7Planted", "shipping_info": {"city": "Zq7Planted"}}
    assert not LEAK.search(without_customer("no such: Zq7Planted", content))


def test_what_is_not_the_customers_stays() -> None:
    said_by_bank = "declined: order ORDER-1001 of 1059.97 USD, PROD-001, 7788 9900 7; insufficient funds..."
    assert without_customer(said_by_bank, {**EXAMPLE, "id": "ORDER-1001"}) == said_by_bank


def test_without_an_order_nothing_changes() -> None:
    assert without_customer("the carrier is away", {}) == "the carrier is away"


def test_a_traceback_repeats_no_row_and_no_input() -> None:
    text = """Traceback (most recent call last):
psycopg.errors.NotNullViolation: null value in column "x"
DETAIL:  Failing row contains (O-1, Zq7Planted).

The above exception was the direct cause of the following exception:

pydantic_core.ValidationError: 1 validation error for Some
  Input should be a valid string [type=string_type, input_value=['Zq7Planted'], input_type=list]"""
    shown = mask_exception(text, Settings())
    assert not LEAK.search(shown)
    assert "NotNullViolation" in shown
    assert "input_type=list" in shown


@pytest.mark.parametrize(
    "text",
    [
        "[type=string_type, input_value=', input_type=x Zq7Planted', input_type=str]",
        "[type=string_type, input_value='Zq7Planted",
        "DETAIL:  Failing row contains (O-1, a\nZq7Planted\n\nZq7Planted).",
        "  | DETAIL:  Failing row contains (O-1, Zq7Planted).",
        f"input_value={'x' * 60_000}Zq7Planted, input_type=str",
        f"{'x' * 50_900} input_value={'Zq7Planted ' * 1_000}, input_type=str",
    ],
)
def test_what_a_customer_typed_ends_no_value_of_an_exception(text: str) -> None:
    assert not LEAK.search(mask_exception(text, Settings()))
    following = mask_exception(
        f"{text}\n[SQL: INSERT INTO some]\nThe above exception was the cause", Settings()
    )
    assert not LEAK.search(following)
    assert "INSERT INTO some" in following or len(text) > 50_000
