"""Card numbers are found in text, whoever issued them and however they are typed;
ids are not taken for them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.text.card_numbers import (
    _RUN,
    MASK,
    _may_have_run,
    _plain_digits,
    has_card_number,
    is_card_number,
    is_card_number_as_token,
    masked,
    passes_luhn,
)
from shop.text.sanitize import one_line

relaxed = hypothesis_settings(deadline=None)

# Test numbers as Stripe, Adyen, Braintree and PayPal publish them.
PUBLISHED = [
    *(
        "4111111111111111",
        "4242424242424242",
        "4000056655665556",
        "4012888888881881",
        "4988438843884305",
        "4000000000000002",
    ),
    *(
        "5555555555554444",
        "5105105105105100",
        "5200828282828210",
        "2223003122003222",
        "2222400070000005",
        "2720990000000007",
    ),
    *("378282246310005", "371449635398431", "343434343434343", "378734493671000", "370000000000002"),
    *("6011111111111117", "6011000990139424", "6011981111111113", "6445644564456445"),
    *("3530111333300000", "3566002020360505", "3569990010095841"),
    *("6200000000000005", "6243030000000001", "6205500000000000004"),
    *("6304000000000000", "6759649826438453", "5018000000000009", "6771798021000008"),
    "3600666633334400",
]
NETWORKS = {
    "Visa": ("4", [16, 19]),
    "Mastercard": ("51", [16]),
    "Mastercard, new": ("2271", [16]),
    "American Express": ("34", [15]),
    "American Express, too": ("37", [15]),
    "Discover": ("6011", [16, 17, 18, 19]),
    "Discover, too": ("65", [16, 19]),
    "JCB": ("3528", [16, 19]),
    "UnionPay": ("62", [16, 17, 18, 19]),
    "Diners Club": ("36", [16, 19]),
    "Maestro": ("6304", [16, 18, 19]),
    "Mir": ("2202", [16, 19]),
}
SEPARATORS = ["", " ", "-", ".", "  ", " - ", "\u00a0", "\u2009", "\t", "\n", "\u2013", "\u2011"]
SEPARATORS += ["/", "_", ",", ", ", ":", "\u00b7", "|", "*", "__-", " " * 60, "\n \n\t", "\x85"]
UNSEEN = [
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u034f",
    "\u061c",
    "\u202e",
    "\u3164",
    "\ufe0f",
    "\U000e0061",
    "\x1f",
]
SEPARATORS += [*UNSEEN, "\u200b" * 40, "\u200b-\u200b \u2060"]


def made(prefix: str, length: int, rng: random.Random) -> str:
    """A number of so many digits that begins so, with its check digit."""
    body = prefix + "".join(rng.choice("0123456789") for _ in range(length - 1 - len(prefix)))
    return next(body + check for check in "0123456789" if passes_luhn(body + check))


def grouped(number: str, separator: str) -> str:
    return separator.join(number[i : i + 4] for i in range(0, len(number), 4))


@pytest.mark.parametrize("number", PUBLISHED)
@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_the_networks_test_numbers_are_found(number: str, separator: str) -> None:
    text = f"please charge {grouped(number, separator)}, thanks"
    assert masked(text) == f"please charge {MASK}, thanks"
    assert is_card_number(grouped(number, separator))


def test_the_published_numbers_are_right() -> None:
    assert [number for number in PUBLISHED if not passes_luhn(number)] == []


@pytest.mark.parametrize("network", NETWORKS)
def test_every_number_of_every_network_is_found(network: str) -> None:
    """2,000 of each, at each length in use."""
    prefix, lengths = NETWORKS[network]
    rng = random.Random(11)
    for length in lengths:
        numbers = [made(prefix, length, rng) for _ in range(2_000)]
        assert all(map(has_card_number, numbers)), (network, length)


@pytest.mark.parametrize(
    "number",
    ["30569309025904", "３０５６９３０９０２５９０４", "38520000023237", "36227206271667", "4222222222222"],
)
def test_numbers_of_thirteen_and_fourteen_digits_are_found_only_in_fields_for_them(number: str) -> None:
    assert not has_card_number(number)
    assert is_card_number(number)


def test_tokens_that_are_numbers_are_no_card_numbers() -> None:
    """A gateway's ids: of 20,000 with 13 digits none, and of those with 14 few."""
    rng = random.Random(7)
    assert not any(is_card_number_as_token(str(rng.randint(10**12, 10**13 - 1))) for _ in range(20_000))
    assert sum(is_card_number_as_token(str(rng.randint(10**13, 10**14 - 1))) for _ in range(20_000)) < 200
    assert not is_card_number_as_token("tok_30569309025904")
    assert is_card_number_as_token("3056 930902 5904")
    assert is_card_number_as_token("tok_4242-4242-4242-4242")


def ean13(rng: random.Random) -> str:
    body = f"{rng.randint(200, 699)}{rng.randint(0, 10**9 - 1):09d}"
    return body + str(-sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(body)) % 10)


def moment(rng: random.Random) -> str:
    day = f"2026{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    return f"{day}{rng.randint(0, 23):02d}{rng.randint(0, 59):02d}{rng.randint(0, 59):02d}"


IDS: dict[str, Callable[[random.Random], str]] = {
    "Shopify's orders": lambda rng: str(rng.randint(4_000_000_000_000, 6_999_999_999_999)),
    "Shopify's variants": lambda rng: str(rng.randint(39_000_000_000_000, 51_999_999_999_999)),
    "EAN-13": ean13,
    "date and time": moment,
    "date and counter": lambda rng: (
        f"2026{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}-{rng.randint(0, 999_999):06d}"
    ),
    "marketplaces, 3-7-7": lambda rng: (
        f"{rng.randint(200, 499)}-{rng.randint(0, 9_999_999):07d}-{rng.randint(0, 9_999_999):07d}"
    ),
    "phone numbers": lambda rng: (
        f"call +49 30 {rng.randint(10**6, 10**7 - 1)} or 0171 {rng.randint(10**6, 10**7 - 1)}"
    ),
    "tracking numbers": lambda rng: str(rng.randint(10**11, 10**12 - 1)),
    "a list of sizes": lambda rng: "sizes " + ", ".join(str(rng.randint(32, 48)) for _ in range(6)),
    "amounts": lambda rng: (
        f"{rng.randint(1, 9)},{rng.randint(0, 999):03d},{rng.randint(0, 999):03d}.00 "
        f"or {rng.randint(100, 999)}.50"
    ),
    "milliseconds": lambda rng: str(rng.randint(1_700_000_000_000, 1_800_000_000_000)),
}


@pytest.mark.parametrize("kind", IDS)
def test_ordinary_ids_in_a_text_are_no_card_numbers(kind: str) -> None:
    """Of 20,000 random ones under one in a thousand."""
    rng = random.Random(7)
    assert sum(has_card_number(IDS[kind](rng)) for _ in range(20_000)) < 20


def test_a_time_with_its_date_is_hardly_ever_a_card_number() -> None:
    """Under one in a hundred, and then the note loses its date."""
    rng = random.Random(7)

    def written() -> str:
        day = f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.2026"
        return f"{day}, {rng.randint(0, 23)}:{rng.randint(0, 59):02d} +01:00"

    assert sum(has_card_number(written()) for _ in range(20_000)) < 200


@pytest.mark.parametrize(
    "uuid",
    [
        "41bbe15a-90e5-4906-8732-2774b438f361",
        "68907177-7003-4b6d-a67d-12ebf10cc048",
        "07045483F17B4766937706461174B813",
    ],
)
def test_a_uuid_is_no_card_number(uuid: str) -> None:
    assert not has_card_number(f"for {uuid}, as said")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("4111 1111 1111 1111 12/30", MASK),
        ("4111111111111111 exp 12/2030 123, please", f"{MASK}, please"),
        ("4111111111111111-12-30", MASK),
        ("card 4111111111111111 CVC: 123", f"card {MASK} CVC: [code]"),
        ("cvv 1234 of 4111111111111111", f"cvv [code] of {MASK}"),
        ("4111111111111111, 123 Main St", f"{MASK}, 123 Main St"),
        ("cvc 123, 12/30", "cvc 123, 12/30"),
        ("2 4111111111111111", f"2 {MASK}"),
        ("555 1234 4111111111111111", f"555 1234 {MASK}"),
        ("4111111111111111 4111111111111112", f"{MASK} 4111111111111112"),
        ("4111111111111112 4111111111111111", f"4111111111111112 {MASK}"),
        ("4111111111111111 5555555555554444", f"{MASK} {MASK}"),
        ("41111111-1111-1111-4111-111111111111", f"{MASK}-{MASK}"),
        ("a4111111111111111b", f"a{MASK}b"),
        ("12345678901234567890", "12345678901234567890"),
        ("41111111111111110", "41111111111111110"),
        ("４１１１１１１１１１１１１１１１", MASK),
        ("٤١١١١١١١١١١١١١١١", MASK),
    ],
)
def test_only_the_card_number_is_masked(text: str, kept: str) -> None:
    assert masked(text) == kept
    assert has_card_number(text) == (MASK in kept)


@relaxed
@given(
    st.sampled_from(PUBLISHED),
    st.sampled_from(SEPARATORS),
    st.text(max_size=10),
    st.text(max_size=10),
    st.data(),
)
def test_inside_any_text_and_cut_anywhere(
    number: str, separator: str, before: str, after: str, data: st.DataObject
) -> None:
    cut = sorted(data.draw(st.lists(st.integers(1, len(number) - 1), max_size=18, unique=True)))
    parts = [number[i:j] for i, j in zip([0, *cut], [*cut, len(number)], strict=True)]
    text = masked(f"{before}|{separator.join(parts)}|{after}")
    assert number[:12] not in re.sub(r"\D", "", text)
    assert masked(text) == text


@relaxed
@given(st.text(st.sampled_from("0123456789 -.x"), max_size=120))
def test_what_is_masked_has_no_card_number_left(text: str) -> None:
    assert not has_card_number(masked(text))


@pytest.mark.parametrize(
    "part",
    ["4 ", "4", "1-", "4111 1111 1111 1112 ", "44 ", "4   ", "41111111-1111-1111-4111-11111111111a ", "a "],
)
def test_time_grows_with_the_length_and_not_with_its_square(part: str) -> None:
    """Ten times the text, about ten times the time; a hundred times if it were the square."""

    def least(length: int) -> float:
        text, times = (part * length)[:length], []
        for _ in range(5):
            began = time.process_time()
            has_card_number(text)
            times.append(time.process_time() - began)
        return min(times)

    assert least(200_000) < 40 * least(20_000) + 0.05


@pytest.mark.parametrize(
    "number",
    ["\u2074" + "\u00b9" * 15, "\u2463" + "\u2460" * 15, "\u2084" + "\u2081" * 15, "\u2779" + "\u2776" * 15],
)
def test_raised_lowered_and_circled_digits_are_digits(number: str) -> None:
    assert masked(f"x {number} y") == f"x {MASK} y"
    assert is_card_number(number)


@relaxed
@given(
    st.sampled_from(PUBLISHED),
    st.lists(
        st.tuples(
            st.text(st.sampled_from(["\u200b", "\u2060", "\u3164", " ", "\n"]), max_size=30),
            st.text("/_,:-.*|\u00b7", max_size=3),
        ),
        min_size=4,
        max_size=4,
    ),
)
def test_nothing_that_cleaning_removes_hides_a_number(number: str, gaps: list[tuple[str, str]]) -> None:
    parts = [number[i : i + 4] for i in range(0, len(number), 4)]
    text = "".join(
        part + unseen[::2] + signs + unseen
        for part, (unseen, signs) in zip(parts, [*gaps, *gaps], strict=False)
    )
    assert masked(f"a {text}").startswith(f"a {MASK}")
    assert number not in re.sub(r"\D", "", one_line(masked(text), 10_000))


@relaxed
@given(
    st.lists(
        st.sampled_from(
            ["4242", "0", "٤٢", "４２", "²", "①", "-", " ", "_", "\u200b", "\ud800", "\t", "é", "x", "··"]
        ),
        max_size=60,
    ).map("".join)
    | st.text(max_size=60)
)
def test_the_quick_check_finds_every_run_of_digits(text: str) -> None:
    if _RUN.search(_plain_digits(text)):
        assert _may_have_run(text)
