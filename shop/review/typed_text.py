"""Text that people type in manual review. It is kept for ever and shown: one line of limited length, never
card data."""

from __future__ import annotations

from shop.review.errors import ResolutionIncomplete
from shop.text.card_numbers import has_card_number
from shop.text.sanitize import one_line

_LONGEST = 300


def required(name: str, given: str | None, why: str) -> str:
    """Returns the cleaned text. Raises `ResolutionIncomplete` if it is empty."""
    if (words := optional(name, given)) is None:
        raise ResolutionIncomplete(f"{name} is missing: {why}")
    return words


def known(text: str | None) -> str | None:
    """Returns a text from the system as it may be stored: one line, cut at the maximum length."""
    return one_line(text or "", _LONGEST).strip() or None


def optional(name: str, given: str | None) -> str | None:
    """Returns the cleaned text; None if it is empty. Raises `ResolutionIncomplete` if it is too long or
    looks like a card number, which the message does not repeat."""
    words = one_line(given, 100_000).strip()
    if len(words) > _LONGEST:
        raise ResolutionIncomplete(f"{name} is too long: shorten it to at most {_LONGEST} characters")
    if has_card_number(words):
        raise ResolutionIncomplete(
            f"{name} contains what looks like a card number, which is never stored: remove it"
        )
    return words or None
