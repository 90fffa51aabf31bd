"""An order of 3 KB does not become half a megabyte:
what is wrong with it is listed up to a number, and counted beyond it."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from shop.inventory import catalogue
from shop.inventory.catalogue import KnownProducts
from shop.orders.errors import MAX_PROBLEMS, OrderRejected, Problem
from shop.orders.intake_content import take_in
from shop.orders.order import EXAMPLE
from shop.orders.validation import validate
from shop.settings import Settings

A_HUNDRED = [letter * 100 for letter in "abcdef"]
NESTED: Any = {f"cvv{i}": 1 for i in range(150)}
for name in A_HUNDRED:
    NESTED = {name: NESTED}

SMALL = {
    "items that are numbers": {**EXAMPLE, "items": [1] * 1_450},
    "items that are huge numbers": {**EXAMPLE, "items": [1e300] * 500},
    "empty items": {**EXAMPLE, "items": [{}] * 900},
    "items of which all is wrong": {
        **EXAMPLE,
        "items": [{"product_id": "x", "quantity": 0, "price": 0}] * 60,
    },
    "items with other names": {**EXAMPLE, "items": [{"qty": 1, "sku": 2}] * 120},
    "fields for security codes": {**EXAMPLE, **{f"cvv{i}": 1 for i in range(250)}},
    "security codes at places with long names": {**EXAMPLE, "payment_info": NESTED},
    "lists in lists": {**EXAMPLE, "items": [[[]] * 8] * 150},
}


class Nothing:
    async def known(self, product_ids: set[str]) -> set[str]:
        return set()


def verdict_on(order: Any) -> tuple[str, OrderRejected]:
    text = take_in(order).text
    (verdict,) = asyncio.run(validate([json.loads(text)], Nothing(), Settings()))
    assert isinstance(verdict, OrderRejected)
    return text, verdict


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_written_of_a_small_order_is_small(kind: str) -> None:
    order = SMALL[kind]
    assert 2_500 < len(json.dumps(order)) < 6_000
    text, verdict = verdict_on(order)
    details = verdict.details()
    # The order's content, reasons and failure, and the error of its step.
    written = len(text) + len(json.dumps(verdict.reasons())) * 2 + len(json.dumps(details)) * 2
    assert written < 80_000
    assert len(verdict.problems) <= MAX_PROBLEMS


def test_what_is_not_listed_is_counted() -> None:
    problems = [Problem(f"items[{i}]", "1", "an object") for i in range(MAX_PROBLEMS + 3)]
    rejected = OrderRejected(problems)
    assert rejected.reasons() == [*map(str, problems[:MAX_PROBLEMS]), "and 3 more problems"]
    assert str(rejected).endswith("; and 3 more problems")
    assert rejected.details()["more_problems"] == 3
    assert len(rejected.details()["problems"]) == MAX_PROBLEMS
    assert OrderRejected(problems[: MAX_PROBLEMS + 1]).reasons()[-1] == "and 1 more problem"
    exactly = OrderRejected(problems[:MAX_PROBLEMS])
    assert exactly.reasons() == [*map(str, problems[:MAX_PROBLEMS])]
    assert "more_problems" not in exactly.details()


def test_every_problem_is_counted_whatever_is_shown() -> None:
    _, verdict = verdict_on({**EXAMPLE, "items": [1] * 500})
    assert len(verdict.problems) + verdict.more >= 500


async def test_other_tasks_have_their_turn_while_many_orders_are_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as the one that renews the lease.
    On a machine that is so slow that each order takes a second, after each order."""
    turns, seconds = 0, itertools.count()
    monkeypatch.setattr("saga.yielding.time", SimpleNamespace(monotonic=lambda: next(seconds)))

    async def renew() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    renewing = asyncio.create_task(renew())
    await validate([EXAMPLE] * 64, Nothing(), Settings())
    renewing.cancel()
    assert turns >= 64


async def test_no_transaction_is_open_for_products_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise AssertionError("a transaction was opened")

    monkeypatch.setattr(catalogue, "transaction", none)
    monkeypatch.setattr(catalogue.products, "_names", {"A": (float("inf"), "a")})
    assert await KnownProducts().known({"A"}) == {"A"}
    with pytest.raises(AssertionError, match="opened"):
        await KnownProducts().known({"A", "B"})
