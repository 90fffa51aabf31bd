"""The new step of docs/how-to/add-a-step.md does what the page says,
in both lanes: a copy of the project runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.how_to import follow, run

pytestmark = pytest.mark.slow

TEST = """
from typing import Any

import pytest

from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import Outcome
from tests.integration.world import World, an_order


async def through(lane: str, order: dict[str, Any]) -> None:
    if lane == "pending":
        intake.submit([order])
        await process_pending_orders(consumer_seconds=0)
    else:
        await process_order(order, return_state=True)


@pytest.mark.parametrize("lane", ["process_order", "pending"])
async def test_a_suspected_order_is_neither_charged_nor_keeps_its_stock(
    saga: World, unique: str, lane: str
) -> None:
    suspected = {**an_order(f"FRAUD-{unique}", price="5001.00"), "customer_email": None}
    good = an_order(f"GOOD-{unique}", price="5001.00")
    before = saga.stock("PROD-001")
    for order in (suspected, good):
        await through(lane, order)
    ended = saga.order(suspected["id"])
    assert (ended.outcome, ended.failing_step) == (Outcome.COMPENSATED, "check_fraud")
    assert saga.order(good["id"]).outcome == Outcome.COMPLETED
    assert (saga.money(suspected["id"]), saga.charges(good["id"])) == ((0, 0), 1)
    assert saga.stock("PROD-001") == (before[0] - 1, before[1]), "released, and one was shipped"
    assert "check_fraud" in saga.journal(good["id"])
    saga.assert_books_balance()
"""


def test_the_step_works_in_both_lanes(tmp_path: Path) -> None:
    copy = follow(tmp_path, "docs/how-to/add-a-step.md")
    (copy / "tests" / "integration" / "test_fraud.py").write_text(TEST, encoding="utf-8")
    run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integration/test_fraud.py")
