"""The examples that ship with the project: some to learn from, others to be judged by. They hold slots and no fact of any order."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import dspy  # type: ignore[import-untyped]

from shop.confirmation.signature import INPUTS, OUTPUTS
from shop.settings import Settings


def examples(kind: Literal["training", "evaluation"], settings: Settings) -> list[Any]:
    """Those of a set in the languages that this shop's mails have, or all if there are none: `dspy.Example`s with the inputs of the
    signature, the language's `code`, and for training a text. No example is in both sets."""
    codes = {settings.mail.language, *settings.mail.language_by_country.values()}
    rows = [dspy.Example(mistakes="none", **row).with_inputs(*INPUTS) for row in _rows(kind)]
    return [row for row in rows if row.code in codes] or rows


def demonstrations(settings: Settings) -> list[Any]:
    """The examples to learn from, as the model is shown them."""
    return [as_demonstration(row) for row in examples("training", settings)]


def as_demonstration(row: Any) -> Any:
    """Only the fields of the signature."""
    return dspy.Example({name: value for name, value in row.items() if name in INPUTS | OUTPUTS})


@lru_cache(maxsize=2)
def _rows(kind: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(Path(__file__).with_name(f"{kind}.json").read_text(encoding="utf-8"))
    return rows
