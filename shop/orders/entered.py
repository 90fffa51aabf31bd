"""Fields that a person or another system enters besides orders: ids, references, words that are stored."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id
from shop.orders.scalars import Text
from shop.text.card_numbers import has_card_number
from shop.text.sanitize import one_line


def _usable(value: str) -> str:
    """Applies the rules of orders' ids: 1 to 200 characters, none of them invisible."""
    try:
        return usable_id(value)
    except UnusableOrder as error:
        (problem,) = error.problems
        raise ValueError(f"got {problem.given}, expected {problem.expected}") from None


def _words(value: object) -> object:
    return (one_line(value, 10_000) or None) if isinstance(value, str) else value


def _no_card(value: str) -> str:
    if has_card_number(value):
        raise ValueError("it contains what looks like a card number, which is never stored")
    return value


EnteredId = Annotated[Text, AfterValidator(_usable)]
_Clean = Annotated[str, Field(max_length=300), AfterValidator(_no_card)]
Words = Annotated[_Clean, BeforeValidator(_words)]
"""One line of text, without card data."""
OptionalWords = Annotated[_Clean | None, BeforeValidator(_words)]
