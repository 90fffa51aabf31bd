"""The language model's task. Importing this imports DSPy, which takes a second: see `language_model`."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import dspy  # type: ignore[import-untyped]

from shop.confirmation.confirmation import ELEMENTS
from shop.settings import Settings


class WriteConfirmation(dspy.Signature):  # type: ignore[misc]
    """Write an order confirmation for a customer of an online shop, as plain text with slots.

    A slot is a name in braces, such as {order_id}. The shop replaces it with the fact that it stands for.
    Each text names its slots: write each of them once, exactly like that, with a blank or punctuation around
    it, and no other. Your own words hold no facts: no digit, number word, amount, currency, date, weekday,
    time, product, address, link or phone number. Promise nothing: no refund, discount, gift, free shipping,
    guarantee, return or insurance. Plain sentences: no emoji, no markup, no word in capitals. One to three
    sentences for each text.
    """

    language: str = dspy.InputField(desc="the language to write in")
    tone: str = dspy.InputField(desc="how to write")
    order_size: str = dspy.InputField(desc="how many items the order has")
    mistakes: str = dspy.InputField(desc="what was wrong with an earlier attempt, or: none")

    greeting: str = dspy.OutputField(desc="greets {customer_name} and says thanks for the order")
    order_summary: str = dspy.OutputField(
        desc="names the order's number {order_id}, what was ordered {items} "
        "and what it costs altogether {total}"
    )
    next_steps: str = dspy.OutputField(
        desc="says that the order is being packed, and {delivery}, the estimated delivery time"
    )
    tracking_info: str = dspy.OutputField(
        desc="says that the parcel can be followed, then {tracking}, "
        "which is a whole sentence about the tracking number"
    )


INPUTS = frozenset(WriteConfirmation.input_fields)
OUTPUTS = frozenset(WriteConfirmation.output_fields)


class ConfirmationWriter(dspy.Module):  # type: ignore[misc]
    """Turns the inputs of `facts.inputs_of` into four texts with slots, or fewer if unreadable."""

    def __init__(self) -> None:
        super().__init__()
        self.write = dspy.Predict(WriteConfirmation)

    def forward(self, **inputs: Any) -> Any:
        try:
            return self.write(demos=self._shown(inputs), **inputs)
        except dspy.utils.exceptions.AdapterParseError:
            return dspy.Prediction()

    async def aforward(self, **inputs: Any) -> Any:
        try:
            return await self.write.acall(demos=self._shown(inputs), **inputs)
        except dspy.utils.exceptions.AdapterParseError:
            return dspy.Prediction()

    def _shown(self, inputs: dict[str, Any]) -> list[Any]:
        """Returns the demonstrations in the requested language."""
        return [demo for demo in self.write.demos if demo.get("language") == inputs["language"]]


def texts_of(prediction: Any) -> dict[str, str]:
    """Returns the texts that an answer has."""
    return {name: text for name in ELEMENTS if isinstance(text := prediction.get(name), str)}


def examples(kind: Literal["training", "evaluation"], settings: Settings) -> list[Any]:
    """Returns the `dspy.Example`s of a set in the languages of this shop's mails, or all if there are
    none: the inputs of the signature, the language's `code`, and for training a text. The sets are
    disjoint."""
    codes = {settings.mail.language, *settings.mail.language_by_country.values()}
    rows = [dspy.Example(mistakes="none", **row).with_inputs(*INPUTS) for row in _rows(kind)]
    return [row for row in rows if row.code in codes] or rows


def demonstrations(settings: Settings) -> list[Any]:
    """Returns the training examples in the form that the model gets."""
    return [as_demonstration(row) for row in examples("training", settings)]


def as_demonstration(row: Any) -> Any:
    """Keeps only the fields of the signature."""
    return dspy.Example({name: value for name, value in row.items() if name in INPUTS | OUTPUTS})


@lru_cache(maxsize=2)
def _rows(kind: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(
        Path(__file__).with_name(f"{kind}.json").read_text(encoding="utf-8")
    )
    return rows
