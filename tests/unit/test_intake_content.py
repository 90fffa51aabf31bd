"""What is stored of what somebody sent: never a card number, always JSON that the database takes, or nothing at all."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.errors import UnusableOrder
from shop.intake_content import CARD_REMOVED, CODE_REMOVED, CONTROL, HAS_REMOVED, REMOVED, TOO_DEEP, TOO_LONG, Content, take_in
from shop.names import MAX_ORDER_ID
from shop.order import EXAMPLE, Order

relaxed = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VISA = "4111111111111111"
CARDS = [
    VISA,
    "4222222222222",  # 13 digits
    "30569309025904",  # 14
    "378282246310005",  # 15
    "5555555555554444",
    "2223003122003222",
    "6011111111111117",
    "3530111333300000",
    "6304000000000000000",  # 19
]


def digits(text: str) -> str:
    """All digits, whatever stands between them."""
    return re.sub(r"\D", "", text)


def check_nothing_of(card: str, order: object) -> Content:
    """Takes the order in, and sees to it that no part of the card is left."""
    content = take_in(order)
    assert card[:12] not in digits(content.text)
    assert REMOVED in content.text
    assert json.loads(content.text)[HAS_REMOVED] is True
    return content


def grouped(card: str, separator: str) -> str:
    return separator.join(card[i : i + 4] for i in range(0, len(card), 4))


# -- card numbers ------------------------------------------------------------------------------------------------------

PLACES: dict[str, Any] = {
    "card_last4": lambda card: {**EXAMPLE, "payment_info": {"method": "credit_card", "card_last4": card}},
    "token": lambda card: {**EXAMPLE, "payment_info": {"method": "credit_card", "token": card}},
    "an unknown field of the payment": lambda card: {**EXAMPLE, "payment_info": {"method": "credit_card", "card_number": card}},
    "an unknown field": lambda card: {**EXAMPLE, "pan": card},
    "an unknown field of an unknown object": lambda card: {**EXAMPLE, "billing": {"cards": [{"pan": card}]}},
    "notes": lambda card: {**EXAMPLE, "notes": card},
    "customer_id": lambda card: {**EXAMPLE, "customer_id": card},
    "customer_name": lambda card: {**EXAMPLE, "customer_name": card},
    "customer_email": lambda card: {**EXAMPLE, "customer_email": f"{card}@example.com"},
    "zip": lambda card: {**EXAMPLE, "shipping_info": {**EXAMPLE["shipping_info"], "zip": card}},
    "product_id": lambda card: {**EXAMPLE, "items": [{"product_id": card, "quantity": 1, "price": 1}]},
    "quantity": lambda card: {**EXAMPLE, "items": [{"product_id": "P", "quantity": card, "price": 1}]},
    "price": lambda card: {**EXAMPLE, "items": [{"product_id": "P", "quantity": 1, "price": card}]},
    "total_amount": lambda card: {**EXAMPLE, "total_amount": card},
    "currency": lambda card: {**EXAMPLE, "currency": card},
    "a list": lambda card: {**EXAMPLE, "tags": ["a", [card]]},
    "an order that is nothing but an id": lambda card: {"id": "A", "x": card},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_card_number_is_found_anywhere(place: str) -> None:
    check_nothing_of(VISA, PLACES[place](VISA))
    check_nothing_of(VISA, PLACES[place](grouped(VISA, " ")))


@pytest.mark.parametrize("place", PLACES)
def test_a_card_number_is_found_as_an_integer(place: str) -> None:
    check_nothing_of(VISA, PLACES[place](int(VISA)))


@pytest.mark.parametrize("number", [float(VISA), Decimal(VISA), Decimal(f"{VISA}.00"), f"{VISA}.0", f"{VISA}.00"], ids=repr)
@pytest.mark.parametrize("place", ["card_last4", "an unknown field of the payment", "an order that is nothing but an id"])
def test_a_card_number_is_found_as_another_number(place: str, number: object) -> None:
    """As a spreadsheet or a data frame writes it."""
    check_nothing_of(VISA, PLACES[place](number))


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("separator", ["", " ", "-", "."])
def test_every_network_and_separator(card: str, separator: str) -> None:
    check_nothing_of(card, {**EXAMPLE, "notes": grouped(card, separator)})


@pytest.mark.parametrize("separator", ["  ", " - ", "\u00a0", "\u2009", "\t", "\n", "–", "‑"], ids=ascii)
def test_separators_that_people_paste(separator: str) -> None:
    check_nothing_of(VISA, {**EXAMPLE, "notes": grouped(VISA, separator)})


@pytest.mark.parametrize(
    "text",
    [
        f"please charge {VISA}, thanks",
        f"card:{VISA}",
        f"a{VISA}b",
        f"{VISA}\n",
        f"call 555-1234, {VISA}",
        f"4111 1111 1111 1112 is wrong, {VISA} is right",
        f"number\n{VISA}\nname",
        "４１１１１１１１１１１１１１１１",
        "٤١١١١١١١١١١١١١١١",
        "4111 1111 1111 1111 exp 12/30",
    ],
)
def test_a_card_number_is_found_inside_text(text: str) -> None:
    content = take_in({**EXAMPLE, "notes": text})
    assert "1111111111" not in digits(content.text)
    assert json.loads(content.text)["notes"] == CARD_REMOVED


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111 12/30",
        "4111 1111 1111 1111 123",
        f"{VISA} 123",
        f"{VISA}-12-30",
        f"{VISA} 1230 123",
        f"2 {VISA}",
        f"1. {VISA}",
        f"1 {VISA} 2",
        f"555 1234 {VISA}",
        f"{VISA} {VISA[:-1]}2",
        "5555 5555 5555 4444 555-1234",
        "378282246310005 0130",
    ],
)
def test_a_card_number_is_found_beside_other_numbers(text: str) -> None:
    """The date, the security code, a position or a phone number beside it must not hide it."""
    content = take_in({**EXAMPLE, "notes": text})
    assert json.loads(content.text)["notes"] == CARD_REMOVED


@pytest.mark.parametrize("key", [VISA, f"card {VISA}", grouped(VISA, "-"), int(VISA), Decimal(VISA)], ids=repr)
@pytest.mark.parametrize("place", ["order", "payment_info", "unknown"])
def test_a_card_number_is_found_as_a_key(place: str, key: object) -> None:
    order: dict[Any, Any] = {**EXAMPLE, "payment_info": dict(EXAMPLE["payment_info"]), "unknown": {}}
    (order if place == "order" else order[place])[key] = "x"
    content = check_nothing_of(VISA, order)
    assert CARD_REMOVED in content.text


@pytest.mark.parametrize(
    "uuid", ["41bbe15a-90e5-4906-8732-2774b438f361", "68907177-7003-4b6d-a67d-12ebf10cc048", "07045483F17B4766937706461174B813"]
)
def test_a_uuid_is_no_card_number_whatever_its_digits(uuid: str) -> None:
    """Each of these has digits in a row that would pass for one. With an id that is a UUID, one order in a thousand has."""
    content = take_in({**EXAMPLE, "id": uuid, "notes": f"for {uuid}, as said"})
    assert content.order_id == uuid
    assert CARD_REMOVED not in content.text


@pytest.mark.parametrize("notes", ["41111111-1111-1111-4111-111111111111", f"41bbe15a-90e5-4906-8732-2774b438f361 {VISA}", f"abc{VISA}def"])
def test_a_card_number_does_not_hide_behind_a_uuid(notes: str) -> None:
    assert json.loads(take_in({**EXAMPLE, "notes": notes}).text)["notes"] == CARD_REMOVED


@pytest.mark.parametrize("card_id", [VISA, int(VISA), grouped(VISA, "-"), f"ORDER-{VISA}", f"{VISA} 12/30"])
def test_an_id_that_is_a_card_number_is_refused_and_not_echoed(card_id: object) -> None:
    with pytest.raises(UnusableOrder) as error:
        take_in({**EXAMPLE, "id": card_id})
    assert "1111" not in str(error.value) + repr(error.value) + json.dumps(error.value.details()) + "".join(error.value.reasons())


@pytest.mark.parametrize(
    "text",
    ["+1 555 123 4567", "1234567890123", "9780306406157", "4111 1111 1111 1112", "12345678901234567890", "2031-02-03 04:05:06", "1059.97"],
)
def test_other_numbers_stay(text: str) -> None:
    assert json.loads(take_in({**EXAMPLE, "notes": text}).text)["notes"] == text


def test_the_rest_of_the_order_stays() -> None:
    content = json.loads(take_in({**EXAMPLE, "notes": VISA}).text)
    assert {k: v for k, v in content.items() if k not in {"notes", HAS_REMOVED}} == EXAMPLE


@pytest.mark.parametrize("field", ["cvv", "cvc", "cvv2", "cvc2", "security_code", "CVV", "Cvc"])
@pytest.mark.parametrize("value", ["123", 123, ["123"], {"x": "123"}])
@pytest.mark.parametrize("shape", ["well-shaped", "not an order"])
def test_a_security_code_is_not_kept(field: str, value: object, shape: str) -> None:
    order = {**EXAMPLE, "payment_info": {"method": "credit_card", field: value}}
    if shape == "not an order":
        order["items"] = None
    content = take_in(order)
    payment = json.loads(content.text)["payment_info"]
    assert payment.get(field, CODE_REMOVED) == CODE_REMOVED
    assert "123" not in content.text.replace("123 Main St", "").replace("CUST-123", "")


@pytest.mark.parametrize("field", ["cvv", "CVV", "security_code", "Security_Code"])
def test_a_security_code_is_told_about_however_it_is_spelled(field: str) -> None:
    """The customer's shop has to learn that it must not send it."""
    content = json.loads(take_in({**EXAMPLE, "payment_info": {"method": "credit_card", field: "123"}}).text)
    assert HAS_REMOVED in content


@pytest.mark.parametrize("field", ["card_cvv", "card_cvc", "cvv_code", "cvvCode", "securityCode", "card_security_code", "cvc ", "csc"])
def test_other_names_of_the_security_code(field: str) -> None:
    assert "9876" not in take_in({"id": "A", "payment": {field: "9876"}}).text


def test_a_card_number_in_an_order_object_is_found() -> None:
    check_nothing_of(VISA, Order.model_validate({**EXAMPLE, "notes": VISA}))


# -- shape -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, True, 1, 1.5, "text", b"bytes", [], [EXAMPLE], (), set(), object(), float("nan")])
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
        (True, "true or false"),
        (1.5, "a number"),
        (-1, "a number"),
        (10**30, "a number"),
        (10**5000, "a number"),
        ([], "a list"),
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
    ("given", "order_id"), [("a" * 200, "a" * 200), (" A ", "A"), (7, "7"), (0, "0"), ("字", "字"), ("../x", "../x"), ("'; --", "'; --")]
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
    content = storable(take_in({"id": "A", "a\x00b": 1, "x": {"y\ud800": "\x00"}}))
    assert content == {"id": "A", CONTROL: 1, "x": {CONTROL: CONTROL}, HAS_REMOVED: True}


@pytest.mark.parametrize("depth", [7, 8, 9, 100, 10_000, 100_000])
def test_deep_nesting(depth: int) -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"x": inner}):
        deep: Any = "end"
        for _ in range(depth):
            deep = wrap(deep)
        content = take_in({"id": "A", "deep": deep})
        storable(content)
        assert (TOO_DEEP in content.text) == (depth > 7)
        storable(take_in({**EXAMPLE, "deep": deep}))
        storable(take_in({**EXAMPLE, "notes": deep}))
        while isinstance(deep, list | dict):  # the interpreter cannot throw away so deep a thing by itself
            deep = deep.pop() if isinstance(deep, list) else deep.pop("x")


def test_an_order_that_holds_itself() -> None:
    order: dict[str, Any] = {**EXAMPLE}
    order["self"] = order
    assert TOO_DEEP in take_in(order).text


def test_ten_thousand_entries_in_a_list() -> None:
    item = EXAMPLE["items"][0]
    content = storable(take_in({**EXAMPLE, "items": [item] * 10_000}))
    assert len(content["items"]) == 1_001
    assert content["items"][-1].startswith(REMOVED)
    assert len(take_in({"id": "A", "x": list(range(10_000))}).text) < 20_000


def test_ten_thousand_entries_in_an_object() -> None:
    many = {f"key {i}": i for i in range(10_000)}
    content = take_in({"id": "A", "x": many})
    assert len(content.text) < 40_000
    assert HAS_REMOVED in storable(content)


@pytest.mark.parametrize("known", [{"currency": "EUR"}, {"discount_amount": "0.01"}, {"shipping_info": EXAMPLE["shipping_info"]}])
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
    assert storable(take_in({"id": "A", "x": "y" * 2_001}))["x"] == TOO_LONG
    assert storable(take_in({"id": "A", "x": "y" * 2_000}))["x"] == "y" * 2_000
    for number in (10**30, -(10**30), 10**5000):
        assert storable(take_in({"id": "A", "x": number}))["x"] == TOO_LONG
    assert (
        storable(take_in({"id": "A", "k" * 5_000: 1})).keys() == {"id", "k" * 100} or REMOVED in take_in({"id": "A", "k" * 5_000: 1}).text
    )


@pytest.mark.parametrize("length", [2_001, 3_000, 15_000])
def test_whether_a_text_is_too_long_does_not_depend_on_the_rest(length: int) -> None:
    short = take_in({**EXAMPLE, "notes": "y" * length})
    longer = take_in({**EXAMPLE, "notes": "y" * length, "unknown": ["z" * 1_000] * 20})
    assert storable(short)["notes"] == storable(longer)["notes"] == TOO_LONG


def test_what_is_not_json() -> None:
    content = storable(take_in({"id": "A", "x": object(), "y": b"bytes", "z": {1, 2}, "n": float("nan"), "i": float("inf"), None: 1, 2: 3}))
    assert {content["x"], content["y"], content["z"]} == {"[removed: was not JSON]"}
    assert (content["n"], content["i"], content["None"], content["2"]) == ("nan", "inf", 1, 3)


def test_somebody_elses_marks_do_no_harm() -> None:
    for order in ({**EXAMPLE, "notes": f"{REMOVED}ha]"}, {**EXAMPLE, HAS_REMOVED: False}, {**EXAMPLE, HAS_REMOVED: {"x": 1}}):
        assert storable(take_in(order))["total_amount"] == "1059.97"


# -- anything ----------------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=10),  # with surrogates
    st.sampled_from(
        ["", "\x00", "\ud800", "\udc00\ud800", "\ufffe", "\u2028", "\\u0000", "\\", '"', REMOVED, HAS_REMOVED, VISA, "1e400", "NaN"]
    ),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([10**29, 10**30, 10**400, -(2**63), 2**64, int(VISA)]), st.floats(), texts
)
odd = st.one_of(st.decimals(), st.binary(max_size=5), st.complex_numbers(), st.just(object()), st.datetimes())
values = st.recursive(
    st.one_of(scalars, odd),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.one_of(texts, st.integers(), st.none()), inner, max_size=5), st.tuples(inner, inner)
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
@given(st.sampled_from(CARDS), st.sampled_from(["", " ", "-", "."]), st.text(max_size=10), st.text(max_size=10), st.data())
def test_a_card_number_inside_any_text(card: str, separator: str, before: str, after: str, data: st.DataObject) -> None:
    around = before.rstrip("0123456789 .-") + "|", "|" + after
    cut = sorted(data.draw(st.lists(st.integers(1, len(card) - 1), max_size=4, unique=True)))
    parts = [card[i:j] for i, j in zip([0, *cut], [*cut, len(card)], strict=True)]
    content = take_in({**EXAMPLE, "notes": around[0] + separator.join(parts) + around[1]})
    assert json.loads(content.text)["notes"].startswith(REMOVED)
    assert card[:12] not in digits(content.text)


def storable(content: Content) -> Any:
    """The content, read as the database and its clients read it."""
    content.text.encode("utf-8")
    read = json.loads(content.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for text in strings(read):
        assert "\x00" not in text
        text.encode("utf-8")
    assert len(content.fingerprint) == 64
    return read


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *strings(inner))]
    return [text for inner in value for text in strings(inner)] if isinstance(value, list) else []
