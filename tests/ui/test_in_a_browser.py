"""The shop as its people use it: in the Prefect UI of `make run`, with the mouse and the keyboard. The
gateway's ledger is checked."""

from __future__ import annotations

import uuid

import pytest

from deployments.local.processes import wait_until
from tests.ui.conftest import Shop
from tests.ui.person import Person

pytestmark = pytest.mark.slow  # `make test-ui`

TOTAL = 105_997
"""Cents: the order that the form is filled with."""


@pytest.fixture
def order_id() -> str:
    return f"ORDER-UI-{uuid.uuid4().hex[:6].upper()}X"


def sends(person: Person, order_id: str, fields: dict[str, str]) -> str:
    """Fills in the form of process-order, which has an example in it, and runs it."""
    person.opens_form("process-order")
    person.fills({"Id": order_id, **fields})
    run = person.submits(f"order {order_id}")
    person.looks_at(run)
    return run


def test_an_order_is_filled_in_and_completes_and_its_diagram_is_drawn(
    person: Person, shop: Shop, order_id: str
) -> None:
    person.opens_form("process-order")
    person.fills({"Id": order_id})
    person.takes_picture("ui-form")
    run = person.submits(f"order {order_id}")
    person.looks_at(run)
    person.sees_state("Completed")
    person.opens_tab("Task Runs")
    for step in (
        "validate_order",
        "check_inventory",
        "process_payment",
        "generate_confirmation",
        "fulfill_order",
        "notify_customer",
    ):
        person.sees(f"{step} {order_id}")
    person.opens_artifact(f"saga-{order_id.lower()}")
    person.sees_diagram("process_payment", "fulfill_order", "completed")
    person.sees("1,059.97 USD")
    person.takes_picture("ui-order", height=1400)
    assert shop.opens(person.link("open it")).content.startswith(b"%PDF")
    assert order_id in shop.opens(person.link("read it")).text
    assert [(p["status"], p["amount"], p["refunded"]) for p in shop.payments(order_id)] == [
        ("succeeded", TOTAL, 0)
    ]
    assert shop.reservation(order_id) == "shipped"


def test_the_failing_sample_is_found_by_its_id_and_shows_what_was_undone(person: Person, shop: Shop) -> None:
    person.finds_order("ORDER-SHIP-FAIL")
    person.sees_state("Compensated")
    person.opens_tab("Task Runs")
    for task in ("fulfill_order", "refund_payment", "release_inventory"):
        person.sees(f"{task} ORDER-SHIP-FAIL")
    person.takes_picture("ui-compensated")
    person.opens_artifact("saga-order-ship-fail")
    person.sees_diagram("fulfill_order", "refund_payment", "release_inventory", "compensated")
    assert [p["amount"] - p["refunded"] for p in shop.payments("ORDER-SHIP-FAIL")] == [0]


def test_one_that_the_carrier_refuses_is_undone_before_ones_eyes(
    person: Person, shop: Shop, order_id: str
) -> None:
    sends(person, order_id, {"Country": "AQ"})
    person.sees_state("Compensated")
    person.opens_tab("Task Runs")
    for task in ("process_payment", "refund_payment", "release_inventory"):
        person.sees(f"{task} {order_id}")
    assert shop.reservation(order_id) == "released"
    assert [(p["status"], p["amount"], p["refunded"]) for p in shop.payments(order_id)] == [
        ("succeeded", TOTAL, TOTAL)
    ]


def test_the_dashboard_is_drawn_on_light_and_dark(person: Person, shop: Shop) -> None:
    shop.runs("show-dashboard/show-dashboard")
    wait_until(lambda: shop.has_artifact("order-dashboard"), 120, "the dashboard", every=0.5)
    for scheme in ("light", "dark"):
        person.prefers(scheme)
        person.opens_latest("order-dashboard")
        person.sees("Orders of the last 3 hours")
        person.sees_pictures(5)
        person.takes_picture(f"ui-dashboard-{scheme}", height=1500)


def test_an_order_under_review_is_resolved(person: Person, shop: Shop, order_id: str) -> None:
    sends(person, order_id, {"Card Last4 (Optional)": "0259", "Country": "AQ"})
    person.sees_state("NeedsAttention")
    person.opens_form("resolve-order")
    person.fills({"order_id": order_id, "resolved_by": "ann"})
    person.chooses("resolution", "refunded_by_hand")
    person.says("reference (Optional)", "transfer 4711")
    person.takes_picture("ui-review", height=1100)
    person.looks_at(person.submits(f"resolve refunded_by_hand {order_id}"))
    person.sees_state("Compensated")
    person.opens_artifact(f"saga-{order_id.lower()}")
    person.sees("transfer 4711")
    assert shop.reservation(order_id) == "released"


def test_a_running_order_is_cancelled_and_undone(person: Person, shop: Shop, order_id: str) -> None:
    shop.slow_down(order_id)
    sends(person, order_id, {})
    wait_until(
        lambda: bool(shop.payments(order_id)), 120, "the payment, whose confirmation does not come", every=0.2
    )
    person.cancels()
    person.sees_state("Cancelled")
    wait_until(lambda: shop.reservation(order_id) == "released", 240, "the order undone", every=0.5)
    assert [p["amount"] - p["refunded"] for p in shop.payments(order_id) if p["charge_id"]] in ([], [0])
