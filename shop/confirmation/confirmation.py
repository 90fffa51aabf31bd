"""The confirmation: four texts and their origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, Field

from shop.values.frozen import Frozen

ELEMENTS = ("greeting", "order_summary", "next_steps", "tracking_info")
"""The texts of a confirmation, in reading order."""

TEMPLATE = "template"
"""`generation_model` of texts that no language model wrote."""


class Confirmation(Frozen):
    """The texts that the customer will read."""

    greeting: str
    order_summary: str
    next_steps: str
    tracking_info: str
    generated_at: AwareDatetime
    generation_model: str
    """`template`, or the language model's name."""
    program_version: str | None = None
    """The program that asked the language model: `plain`, or the version of the optimised one. None for
    the template."""
    personalization_level: Literal["high", "standard"]
    """`high` if the customer's name is known."""
    content_length: int
    """Total length of the four texts, in characters."""
    includes_tracking: bool
    """Whether the texts say how to track the parcel."""
    validation_warnings: list[str] = Field(default_factory=list)
    """Missing elements, and why a language model's text was not used. Never an exception's text, which may
    contain keys."""


def missing(texts: Mapping[str, str], *, tracked: bool = True) -> list[str]:
    """Returns a warning for each element that is absent or empty. `tracked`: the one about tracking is among
    them."""
    names = ELEMENTS if tracked else ELEMENTS[:-1]
    return [f"missing element: {name}" for name in names if not texts.get(name, "").strip()]
