"""Two ids that look the same are two charges, so an id has no invisible characters."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import take_in, usable_id
from shop.orders.order import EXAMPLE

UNSEEN = [
    *(
        "\u200b",
        "\u200c",
        "\u200d",
        "\u2060",
        "\ufeff",
        "\u00ad",
        "\u034f",
        "\u061c",
        "\u115f",
        "\u180e",
        "\u2800",
        "\u3164",
        "\uffa0",
    ),
    *(
        "\u200e",
        "\u200f",
        "\u202a",
        "\u202d",
        "\u202e",
        "\u2066",
        "\u2069",
        "\ufe0f",
        "\U000e0041",
        "\U000e0100",
        "\U0001d173",
    ),
    *("\u00a0", "\u2007", "\u2009", "\u202f", "\u3000", "\x85", "\x9b", "\t"),
]


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
def test_invisible_characters_are_in_no_id(character: str) -> None:
    for order_id in (f"ORDER{character}-1", f"{character}ORDER-1", f"ORDER-1{character}"):
        if order_id.strip() == "ORDER-1":  # blanks at the ends are stripped, as always
            assert take_in({**EXAMPLE, "id": order_id}).order_id == "ORDER-1"
            continue
        with pytest.raises(UnusableOrder):
            take_in({**EXAMPLE, "id": order_id})


def test_no_character_that_unicode_formats_or_ignores_is_in_an_id() -> None:
    taken = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"} and chr(code) != " ":
            try:
                taken.append(usable_id(f"A{chr(code)}B"))
            except UnusableOrder:
                continue
    assert taken == []


def test_an_accent_of_its_own_is_in_no_id() -> None:
    composed = "Ordre-é-1"
    assert usable_id(composed) == composed
    with pytest.raises(UnusableOrder, match="accents"):
        usable_id(unicodedata.normalize("NFD", composed))


@pytest.mark.parametrize(
    "order_id",
    ["ORDER-1", "A B", "注文-1", "Überweisung 7", "🙂🙃 字", "x" * 200, "заказ-5", "طلب-1", "./..\\%00"],
)
def test_ordinary_ids_of_every_script_are_taken(order_id: str) -> None:
    assert take_in({**EXAMPLE, "id": order_id}).order_id == order_id
