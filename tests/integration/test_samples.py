"""Each sample order of `make run`, in both lanes, through a real Prefect server;
the gateway's ledger and the stock are asked."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from deployments.samples import Sample, load_samples
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.notifications.maildir import mail_name
from shop.orders import intake, report
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.review.retry import NewMeans, retry
from tests.integration.world import World

SAMPLES = load_samples()


async def own_runs(orders: list[dict[str, Any]], concurrent: bool) -> None:
    if concurrent:
        await asyncio.gather(*(process_order(order, return_state=True) for order in orders))
        return
    for order in orders:
        await process_order(order, return_state=True)


async def pending_lane(orders: list[dict[str, Any]], concurrent: bool) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


async def retry_sample(sample: Sample, orders: list[dict[str, Any]]) -> None:
    """Tries its orders again, if the sample says so."""
    if sample.retry is not None:
        for order in orders:
            await retry(order["id"], NewMeans(**sample.retry))
        await process_pending_orders(consumer_seconds=0)


def needs_shipment(order: dict[str, Any]) -> bool:
    return any(not item.get("digital") for item in order["items"])


@pytest.mark.parametrize("lane", [own_runs, pending_lane])
@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.title for sample in SAMPLES])
async def test_sample_ends_as_it_should(saga: World, unique: str, sample: Sample, lane: Any) -> None:
    orders = [{**copy.deepcopy(order), "id": f"{order['id']}-{unique}"} for order in sample.orders]

    await lane(orders, sample.concurrent)
    await retry_sample(sample, orders)

    ends = report.read([order["id"] for order in orders])
    outcomes: list[OrderOutcome | None] = [ends.get(order["id"]) for order in orders]
    for order, outcome, expected in zip(orders, outcomes, sample.assign(outcomes), strict=True):
        assert outcome is not None
        assert expected.differences(outcome) == []
        assert saga.money(order["id"]) == (expected.charged, expected.refunded), "the gateway's ledger"
        assert saga.charges(order["id"]) == (1 if expected.charged else 0)
        completed = expected.outcome is Outcome.COMPLETED
        shipped = completed and needs_shipment(order)
        assert saga.shipments(order["id"]) == int(shipped)
        assert (order["id"] in saga.labels([order["id"]])) == shipped
        due = {
            "confirmation": completed and sample.retry is None,
            "refund": expected.refunded > 0,
            "payment_failed": (expected.failing_step == "process_payment" and not expected.charged)
            or sample.retry is not None,
            "out_of_stock": expected.outcome is Outcome.OUT_OF_STOCK,
        }
        assert saga.mail_kinds(order["id"]) == {kind for kind, is_due in due.items() if is_due}
        again = mail_name(order["id"], "confirmation", 2) in saga.mails()
        assert again == (sample.retry is not None), "the mail of the second try"
    pieces: dict[str, int] = {}
    for order, outcome in {o["id"]: (o, e) for o, e in zip(orders, outcomes, strict=True)}.values():
        for item in order["items"] if outcome and outcome.outcome is Outcome.COMPLETED else []:
            if not item.get("digital"):
                pieces[item["product_id"]] = pieces.get(item["product_id"], 0) + item["quantity"]
    for product, received, on_hand, reserved in saga.sql(
        "SELECT id, received, on_hand, reserved FROM product"
    ):
        assert (on_hand, reserved) == (received - pieces.get(product, 0), 0), product
    saga.assert_books_balance()


async def test_undo_runs_in_reverse(saga: World, unique: str) -> None:
    sample = next(s for s in SAMPLES if any(expected.refunded > 0 for expected in s.expect))
    order = {**sample.orders[0], "id": f"{sample.orders[0]['id']}-{unique}"}
    await process_order(order, return_state=True)
    journal = saga.journal(order["id"])
    assert journal["check_inventory"].number < journal["process_payment"].number
    assert journal["process_payment"].undo_number < journal["check_inventory"].undo_number, (
        "refunded first, then released"
    )
    assert journal["process_payment"].undo_ended_at <= journal["check_inventory"].undo_begun_at
