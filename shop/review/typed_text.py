"""What people type at the desk: kept for ever and shown, so it is one line, of some length, and never card data."""

from __future__ import annotations

from shop.review.errors import ResolutionIncomplete
from shop.text.card_numbers import has_card_number
from shop.text.sanitize import one_line

_LONGEST = 300


def required(name: str, given: str | None, why: str) -> str:
    """The text, cleaned. Raises `ResolutionIncomplete` if there is none."""
    if (words := optional(name, given)) is None:
        raise ResolutionIncomplete(f"{name} is missing: {why}")
    return words


def known(text: str | None) -> str | None:
    """What the system itself knows, as it may be kept: one line, cut at the longest length."""
    return one_line(text or "", _LONGEST).strip() or None


def optional(name: str, given: str | None) -> str | None:
    """The text, cleaned; None if there is none. Raises `ResolutionIncomplete` if it is too long or looks like a card number, which is not
    repeated."""
    words = one_line(given, 100_000).strip()
    if len(words) > _LONGEST:
        raise ResolutionIncomplete(f"{name} is too long: at most {_LONGEST} characters")
    if has_card_number(words):
        raise ResolutionIncomplete(f"{name} holds what looks like a card number, which is never stored: leave it out")
    return words or None
