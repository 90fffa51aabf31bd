"""The invented orders that ship with the project: some to learn from, others to be judged by.

No customer's order is ever among them, so what is learned, and shown to a model with every order, holds nobody's data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.facts import ConfirmationFacts, facts_of, inputs_of
from shop.confirmation.program import Demonstration
from shop.order import Order
from shop.settings import Settings

_DATA = Path(__file__).parent / "data"
_DELIVERY = "3-5 business days"


@dataclass(frozen=True, slots=True)
class Example:
    """An invented order, and for training a text that may leave."""

    order: Order
    settings: Settings
    """Those of the shop, with the example's own delivery estimate."""
    facts: ConfirmationFacts
    texts: Mapping[str, str] | None

    @property
    def inputs(self) -> dict[str, str | int]:
        return inputs_of(self.facts)


def examples(kind: Literal["training", "evaluation"], settings: Settings) -> list[Example]:
    """All orders of a set, always in the same sequence. No order is in both sets."""
    return [_example(row, settings) for row in _rows(kind)]


def demonstrations(many: int, settings: Settings) -> tuple[Demonstration, ...]:
    """The first orders of the training set with their texts, as the model sees them."""
    return tuple([demonstration(example) for example in examples("training", settings)[:many]])


def demonstration(example: Example) -> Demonstration:
    """The example with its text. Raises ValueError if it has none."""
    if example.texts is None:
        raise ValueError(f"{example.order.id} has no text")
    return {**example.inputs, **{name: example.texts[name] for name in ELEMENTS}}


@lru_cache(maxsize=2)
def _rows(kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((_DATA / f"{kind}.json").read_text(encoding="utf-8"))
    return rows


def _example(row: dict[str, Any], settings: Settings) -> Example:
    order = Order.model_validate(row["order"])
    own = settings.model_copy(update={"estimated_delivery": row.get("estimated_delivery", _DELIVERY)})
    return Example(order, own, facts_of(order, own), row.get("texts"))
