"""Ids as somebody who means harm would send them, through whole runs: files,
mails, keys and run names stay safe, the money right."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.errors import UnusableOrder
from shop.orders.outcomes import Outcome
from tests.integration.world import World, an_order

HOSTILE = [
    "../../x",
    "/etc/passwd",
    "..\\..\\x",
    ".",
    "-rf *",
    "~root",
    "C:CON",
    "$(reboot)`id`",
    "%2e%2e%2fx%00",
    "🙂🙃 字",
    "'; DROP TABLE customer_order; --",
    "' OR '1'='1",
    "{{ flow_run.id }}",
    "<script>alert(1)</script>",
    "x@example.com, y@example.com",
    "=?utf-8?q?Bcc:_x@example.com?=",
    "[a](javascript:alert(1))",
    "| a | b |",
    "x" * 150,
]
REFUSED_BY_PREFECT = ["x\0y", "\ud800"]
"""Its server, or JSON itself, takes no run with such a parameter."""
NEVER_TAKEN = ["x" * 300, "x\r\nBcc: everybody@example.com", "x\ny", "  ", "", *REFUSED_BY_PREFECT]
_SAFE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*")


def hostile_orders(unique: str) -> list[dict[str, Any]]:
    """Each id twice: one order that is shipped, and one whose money goes back."""
    return [
        an_order(f"{i}{unique}{end}", country=country)
        for i in HOSTILE
        for end, country in (("", "US"), ("B", "AQ"))
    ]


def everything_below(folder: Path) -> set[str]:
    return {str(Path(base, name)) for base, _, names in os.walk(folder) for name in names}


def assert_nothing_happened_but_orders(world: World, orders: list[dict[str, Any]], outside: set[str]) -> None:
    ends = report.read([order["id"] for order in orders])
    for order in orders:
        shipped = order["shipping_info"]["country"] == "US"
        assert ends[order["id"]].outcome is (Outcome.COMPLETED if shipped else Outcome.COMPENSATED), order[
            "id"
        ]
        assert world.charges(order["id"]) == 1
        assert world.shipments(order["id"]) == shipped
    shipped = [order["id"] for order in orders if order["shipping_info"]["country"] == "US"]
    world.assert_books_balance()
    mails = world.mails()
    labels = world.labels(order["id"] for order in orders)
    assert list(labels) == shipped
    assert all(label.startswith(b"%PDF-") for label in labels.values())
    assert len(mails) == len(orders)
    for name in mails:
        assert _SAFE_FILE.fullmatch(name), name
        assert len(name) < 120
    for mail in mails.values():
        assert mail["To"].addresses[0].addr_spec == orders[0]["customer_email"]
        assert len(mail["To"].addresses) == 1
        assert mail["Bcc"] is None
        assert mail["Cc"] is None
        assert mail.defects == []
    assert everything_below(world.var_dir.parent) - everything_below(world.var_dir) == outside, (
        "nothing is written anywhere else"
    )


@pytest.fixture
def outside(world: World) -> set[str]:
    """What lies beside the shop's folder."""
    return everything_below(world.var_dir.parent) - everything_below(world.var_dir)


async def test_in_the_pending_lane(saga: World, unique: str, outside: set[str]) -> None:
    orders = hostile_orders(unique)
    assert {receipt.status for receipt in intake.submit(orders)} == {"accepted"}
    await process_pending_orders(consumer_seconds=0)
    assert_nothing_happened_but_orders(saga, orders, outside)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
async def test_in_own_runs(saga: World, unique: str, outside: set[str]) -> None:
    """Run names have the id in them, on one line and not at any length."""
    orders = hostile_orders(unique)[::3]
    for order in orders:
        await process_order(order, return_state=True)
        async with get_client() as client:
            run = await client.read_flow_run(UUID(saga.order(order["id"]).flow_run_id))
        assert run.name.startswith("order ")
        assert run.name.removeprefix("order ") == order["id"][:100]
        assert run.name.isprintable()
    assert_nothing_happened_but_orders(saga, orders, outside)


@pytest.mark.parametrize("order_id", NEVER_TAKEN, ids=lambda given: ascii(given)[:30])
async def test_what_is_no_id_is_refused_before_anything_is_stored(saga: World, order_id: str) -> None:
    (receipt,) = intake.submit([an_order(order_id)])
    assert (receipt.status, receipt.order_id) == ("refused", None)
    assert receipt.reasons
    if order_id not in REFUSED_BY_PREFECT:
        with pytest.raises(UnusableOrder):
            await process_order(an_order(order_id))
    assert saga.sql("SELECT count(*) FROM customer_order") == [(0,)]
