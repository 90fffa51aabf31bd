"""What searches a text for card numbers,
secrets and addresses takes time in proportion to it, and looks at its length first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from shop.monitoring.masking import mask, mask_exception, masked
from shop.notifications.smtp import _ADDRESS
from shop.orders.intake_content import TOO_LONG, take_in
from shop.orders.order import EXAMPLE
from shop.settings import Settings
from shop.text import card_numbers
from shop.text.customer_words import without_customer

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
WORST = [
    *(
        "-",
        " ",
        "_",
        "1",
        "4",
        "1-",
        "0-",
        "1\n",
        "1_",
        "1 ",
        "1\u200b",
        "\u200b",
        "4111 ",
        "0000-",
        "4111111111111111 ",
        "1---",
        "1-----",
    ),
    *(
        "a",
        "a@",
        "a.",
        "a@a.",
        "@",
        "a" * 64 + "@",
        "@" + "a-" * 30,
        "<",
        "hex0-1-",
        "01234567-89ab-",
        "abcdef01",
        "f" * 31 + "-",
    ),
    *(
        "Bearer ",
        "Bearer",
        "sk_live_",
        "sk_live_\t",
        "EZAK",
        "whsec_",
        "cvc ",
        "cvc\u200b",
        "4111111111111111 1/",
        "security code ",
    ),
    *("4" * 14 + "x", "1----" * 13 + "x", ("1" + "-" * 3) * 14 + " x", "\ud800", "\u2460", "\U000e0041"),
    *(
        "input_value=",
        ", input_type=",
        "input_value=, input_type=",
        "DETAIL:",
        "DETAIL:\n",
        "\nCONTEXT:x",
        " | ",
        "x\n",
        "...",
        "ab... ",
        "1 x",
    ),
]
CUSTOMER = {
    "shipping_info": {
        "address": " ".join(f"a{i} 1{i}" for i in range(500)),
        "city": "a...a",
        "phone": "1" * 20,
    },
    "items": [{"name": f"ünusual {i} ab {'wört ' * 20}"} for i in range(4_000)],
}
"""An order with more than is looked at."""
SHORT, TIMES = 10_000, 4
LONG = SHORT * TIMES


def seconds(work: Callable[[str], object], text: str) -> float:
    """Of processor time, the best of some tries."""

    def once() -> float:
        began = time.process_time()
        work(text)
        return time.process_time() - began

    return min(once() for _ in range(3))


PATTERNS: dict[str, Callable[[str], object]] = {
    "has_card_number": card_numbers.has_card_number,
    "masked": card_numbers.masked,
    "is_card_number": card_numbers.is_card_number,
    "is_card_number_as_token": card_numbers.is_card_number_as_token,
    "log masking": lambda text: mask(text, SETTINGS),
    "exceptions in logs": lambda text: mask_exception(text, SETTINGS),
    "what an order says": lambda text: without_customer("a 1 no such street...", {"notes": text}),
    "addresses in a server's reply": lambda text: _ADDRESS.sub(" ", text),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.short_form("is_card_number", "masked")
def test_four_times_the_text_takes_about_four_times_as_long(name: str) -> None:
    """A quadratic pattern takes sixteen times as long."""
    work = PATTERNS[name]
    for each in WORST:
        for tail in ("", "x", "@", "4"):
            text = (each * LONG)[:LONG]
            assert _grows_linearly(work, text[:SHORT] + tail, text + tail), (name, each, tail)


def _grows_linearly(work: Callable[[str], object], short: str, long: str) -> bool:
    """Tries again: what else runs on this machine makes some measurements wrong,
    and a quadratic pattern fails all of them."""
    return any(seconds(work, long) < max(seconds(work, short), 0.000_5) * TIMES * 2.5 for _ in range(5))


@pytest.mark.parametrize("each", WORST, ids=ascii)
def test_a_megabyte_is_cut_before_anything_is_searched(each: str) -> None:
    """Both take the time of the part that is looked at:
    a field's 2,000 characters, and a log line's 50,000."""
    text = (each * 1_000_000)[:1_000_000]
    stored = json.loads(take_in({**EXAMPLE, "customer_name": text, "notes": text}).text)
    assert stored.get("customer_name", TOO_LONG) == TOO_LONG or not text.strip()
    assert len(stored.get("notes", "")) <= 2_000
    assert mask(text, SETTINGS).endswith("... (1000000 characters)")
    assert len(masked({"said": [text]}, SETTINGS)["said"][0]) < 200_000
    assert seconds(lambda whole: take_in({**EXAMPLE, "notes": whole}), text) < 0.5
    assert seconds(lambda whole: mask(whole, SETTINGS), text) < 0.5
    assert mask_exception(text, SETTINGS).endswith("... (1000000 characters)")
    assert seconds(lambda whole: mask_exception(whole, SETTINGS), text) < 0.5
    assert seconds(lambda whole: without_customer(whole, CUSTOMER), text) < 0.5
    assert (
        seconds(
            lambda whole: without_customer("a 1 no such street...", {"notes": whole, "items": [whole] * 5}),
            text,
        )
        < 0.5
    )
