"""The example sets that ship with the project, for training and for evaluation. They have slots instead of
facts of orders."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import dspy  # type: ignore[import-untyped]

from shop.confirmation.signature import INPUTS, OUTPUTS
from shop.settings import Settings


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
