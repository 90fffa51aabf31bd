"""What the fact check makes of whole texts, as language models write them, in seven languages.

`confirmation_texts/right.jsonl` may leave, `wrong.jsonl` may not; each names its order in `orders.json`, a wrong one also what
is wrong with it. Most wrong ones differ from a right one in nothing else. `held_out` are those that were written when the
rules stood; README says how many of them were judged rightly before the rules knew them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shop.confirmation.check.fact_check import check_words
from shop.confirmation.check.finding import Finding
from shop.confirmation.facts import facts_of
from shop.order import Order
from shop.settings import Settings

HERE = Path(__file__).parent / "confirmation_texts"
ORDERS = {name: Order.model_validate(order) for name, order in json.loads((HERE / "orders.json").read_text(encoding="utf-8")).items()}
SETTINGS = Settings(_env_file=None, dspy_model=None)


def texts(label: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()]


def findings(row: dict[str, Any]) -> list[Finding]:
    order = ORDERS[row["order"]]
    return check_words(row["text"], order, facts_of(order, SETTINGS), SETTINGS)


def test_the_set_is_large_and_says_nothing_twice() -> None:
    right, wrong = texts("right"), texts("wrong")
    assert len(right) >= 80
    assert len(wrong) >= 120
    assert len({(row["order"], row["text"]) for row in right + wrong}) == len(right + wrong)
    assert sum(row["set"] == "held_out" for row in right + wrong) >= len(right + wrong) / 4


def test_every_wrong_text_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = texts("wrong")
    missed = [row for row in rows if not findings(row)]
    with capsys.disabled():
        print(f"\nwrong texts stopped: {len(rows) - len(missed)} of {len(rows)}")
    assert missed == []


def test_nearly_every_right_text_passes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = texts("right")
    refused = [(row["order"], row["text"][:80], [finding.told for finding in found]) for row in rows if (found := findings(row))]
    with capsys.disabled():
        print(f"\nright texts passed: {len(rows) - len(refused)} of {len(rows)} ({1 - len(refused) / len(rows):.1%})")
    assert len(refused) <= 0.05 * len(rows), refused


def test_wrong_texts_are_stopped_for_what_is_wrong_with_them() -> None:
    """Nearly always: some mistakes are two, and a number that means nothing here may be called either."""
    rows = texts("wrong")
    named = [row for row in rows if row["about"] in {finding.kind for finding in findings(row)}]
    assert len(named) >= 0.95 * len(rows)
