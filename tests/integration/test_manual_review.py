"""Manual review: a failed compensation is retried, shown,
and settled by a person. Checked against the gateway's ledger."""

from __future__ import annotations

import asyncio
import getpass
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType

from deployments.local.programs import Sandbox
from deployments.review import orders_that_need_attention
from deployments.review import resolve_order as resolve_from_python
from flows import attention_artifact
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.resolve_order import resolve_order
from saga import claims
from saga.database import transaction
from saga.finish import postpone
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.orders.report import read
from shop.orders.store import ORDERS
from shop.payments import charge
from shop.payments.gateways import gateway
from shop.reconciliation.books import read_books
from shop.reconciliation.repair import refund_ended
from shop.review import attention, reopening
from shop.review import resolution as review
from shop.review.attention import advice
from shop.review.errors import (
    AlreadyResolved,
    GatewayNotAsked,
    NotUnderReview,
    OrderBusy,
    OrderUnknown,
    RefundedAlready,
    ResolutionIncomplete,
)
from shop.review.resolution import Resolution
from shop.settings import settings
from tests.integration.world import World, an_order
from tests.waiting import until

PRICE = Decimal("999.99")
DEAD = "00000000-0000-0000-0000-0000000000dd"


@pytest.fixture(autouse=True)
def behave(sandbox: Sandbox) -> Iterator[None]:
    """Resets the gateway's behaviour after each test."""
    yield
    switches = {"take_refunds": False, "error_rate": 0, "hang_rate": 0, "forget_keys": False}
    httpx.post(f"{sandbox.url}/sandbox/behaviour", json=switches, timeout=10).raise_for_status()


async def order_in_review(saga: World, name: str) -> str:
    """An order that was charged, cannot be shipped, and whose refund the gateway refuses."""
    await process_order(an_order(name, card="0259", country="AQ"), return_state=True)
    assert saga.order(name).outcome == Outcome.NEEDS_ATTENTION
    assert saga.money(name) == (PRICE, 0)
    return name


async def retry(saga: World) -> dict[str, int]:
    """As if the pauses were over."""
    saga.sql(
        "UPDATE attention SET next_retry_at = now() - interval '1 second' WHERE next_retry_at IS NOT NULL"
    )
    return await run_housekeeping()


async def run_housekeeping() -> dict[str, int]:
    """How many orders were retried, and how many need a person then."""
    retried = (await housekeeping())["retried"]
    return {"retried": retried, "need_attention": (await attention.read_queue(0)).orders}


def review_row(saga: World, order_id: str) -> Any:
    return saga.sql("SELECT * FROM attention WHERE order_id = :id", id=order_id)[0]


def entries(saga: World, order_id: str) -> list[Any]:
    return saga.sql("SELECT * FROM desk_entry WHERE order_id = :id ORDER BY id", id=order_id)


async def shown() -> tuple[dict[str, dict[str, Any]], str]:
    """The latest artifact: order to row, and its description."""
    artifact = await Artifact.aget(attention_artifact.KEY)
    if artifact is None:
        return {}, ""
    rows = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
    return {row["order"]: row for row in rows}, artifact.description or ""


# -- reaching manual review


@pytest.mark.usefixtures("prefect_api")
async def test_an_order_reaches_the_review_queue_and_the_ui(saga: World, unique: str) -> None:
    before = datetime.now(UTC)
    order_id = await order_in_review(saga, f"REVIEW-{unique}")
    row = review_row(saga, order_id)
    assert (row.step, row.amount_at_risk, row.currency, row.error_code) == (
        "process_payment",
        PRICE,
        "USD",
        "refund_refused",
    )
    assert before <= row.since <= datetime.now(UTC)
    assert 0 < (row.next_retry_at - row.since).total_seconds() <= 61
    saga.assert_books_balance()
    rows, description = await shown()
    shown_row = rows[order_id]
    assert (shown_row["step"], shown_row["at risk"]) == ("process_payment", "999.99 USD")
    assert shown_row["since"].endswith("UTC")
    assert "does not accept refunds" in shown_row["last error"]
    assert "refunded_by_hand" in shown_row["what to do"]
    assert description.startswith("1 order needs attention: 999.99 USD at risk")
    everything = json.dumps(shown_row)
    assert not any(private in everything for private in ("@", "John", "0259", "Main St")), "no customer data"


@pytest.mark.usefixtures("prefect_api")
async def test_the_pending_lane_shows_the_review_queue_while_it_consumes(saga: World, unique: str) -> None:
    orders = [an_order(f"LANE-{unique}-{i}", card="0259", country="AQ") for i in range(5)]
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:
        intake.submit(orders)

        async def all_shown() -> bool:
            return {order["id"] for order in orders} <= set((await shown())[0])

        await until(all_shown, 40, "the artifact, from a consumer that goes on")
        assert not consumer.done()
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


# -- retries


@pytest.mark.usefixtures("prefect_api")
async def test_a_retry_refunds_once_the_gateway_does_and_clears_the_review(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"RETRY-{unique}")
    assert await retry(saga) == {"retried": 1, "need_attention": 1}
    assert (saga.order(order_id).outcome, review_row(saga, order_id).retries) == (Outcome.NEEDS_ATTENTION, 1)
    saga.assert_books_balance()

    saga.misbehave(take_refunds=True)
    assert await retry(saga) == {"retried": 1, "need_attention": 0}

    ended = read([order_id])[order_id]
    assert (ended.outcome, ended.amount_refunded, ended.amount_at_risk) == (Outcome.COMPENSATED, PRICE, 0)
    assert saga.money(order_id) == (PRICE, PRICE)
    assert len(saga.ledger(order_id)[0]["refunds"]) == 1
    assert review_row(saga, order_id).resolution == "undone"
    assert (await shown())[1] == "No order needs attention."
    assert "999.99 USD" in saga.mail(order_id, "refund"), "the customer is told, now that it is true"
    assert saga.journal(order_id)["process_payment"].undo_attempts == 3
    saga.assert_books_balance()


async def test_an_order_that_cannot_be_claimed_keeps_no_others_from_their_retry(
    saga: World, unique: str
) -> None:
    first, second = (
        await order_in_review(saga, f"SPOILT-{unique}"),
        await order_in_review(saga, f"FINE-{unique}"),
    )
    (was,) = saga.sql("SELECT CAST(failure AS text) FROM customer_order WHERE id = :id", id=first)
    saga.sql("""UPDATE customer_order SET failure = '"unreadable"' WHERE id = :id""", id=first)
    saga.misbehave(take_refunds=True)
    assert (await retry(saga))["retried"] == 2
    assert saga.order(second).outcome == Outcome.COMPENSATED
    row = saga.order(first)
    assert (row.outcome, row.lease_id) == (None, None)
    assert row.not_before is not None, "it waits"
    assert (saga.money(first), saga.money(second)) == ((PRICE, 0), (PRICE, PRICE))

    saga.sql(
        "UPDATE customer_order SET failure = CAST(:was AS jsonb), not_before = NULL WHERE id = :id",
        was=was[0],
        id=first,
    )
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(first).outcome == Outcome.COMPENSATED
    assert saga.money(first) == (PRICE, PRICE)
    saga.assert_books_balance()


@pytest.mark.usefixtures("prefect_api")
async def test_a_retry_is_a_task_run_that_people_can_see(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"SEEN-{unique}")
    saga.sql("UPDATE attention SET next_retry_at = now()")
    state = await housekeeping(return_state=True)
    async with get_client() as client:

        async def there() -> bool:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            return f"refund_payment {order_id}" in [
                run.name for run in await client.read_task_runs(flow_run_filter=mine)
            ]

        await until(there, 20, "the task run")


async def test_pauses_grow_to_their_limit(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"PAUSE-{unique}")
    pauses = []
    for retries in range(1, 13):
        await attention_again(order_id, retries)
        pause = saga.sql(
            "SELECT extract(epoch FROM next_retry_at - now()) FROM attention WHERE order_id = :id",
            id=order_id,
        )[0][0]
        pauses.append(round(float(pause) / 60))
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360, 360]
    assert await run_housekeeping() == {"retried": 0, "need_attention": 1}, "its pause is not over"


async def attention_again(order_id: str, retries: int) -> None:
    async with transaction() as tx:
        await attention.put(
            tx, [attention.NewCase(order_id, "process_payment", "USD", PRICE, "again", "refund_refused")]
        )


async def test_many_retries_side_by_side_refund_once(saga: World, unique: str) -> None:
    """Also against a gateway that has forgotten every key."""
    order_ids = [await order_in_review(saga, f"SIDE-{unique}-{i}") for i in range(3)]
    saga.misbehave(take_refunds=True, forget_keys=True)
    saga.sql("UPDATE attention SET next_retry_at = now()")
    await asyncio.gather(
        *(housekeeping() for _ in range(3)),
        *(resolve_order(order_ids[0], Resolution.RETRY_NOW, "ann", return_state=True) for _ in range(2)),
        process_pending_orders(consumer_seconds=0),
        housekeeping(),
    )
    for order_id in order_ids:
        assert saga.order(order_id).outcome == Outcome.COMPENSATED
        assert [len(payment["refunds"]) for payment in saga.ledger(order_id)] == [1]
        assert saga.money(order_id) == (PRICE, PRICE)
    saga.assert_books_balance()


@pytest.mark.usefixtures("prefect_api")
async def test_a_worker_that_dies_in_a_retry_leaves_it_to_recovery(saga: World, unique: str) -> None:
    """Dead after the refund was made and before it was written down: found, and not made again."""
    order_id = await order_in_review(saga, f"DEATH-{unique}")
    saga.misbehave(take_refunds=True, forget_keys=True)
    saga.sql("UPDATE attention SET next_retry_at = now()")
    async with transaction() as tx:
        assert await reopening.reopen_due(tx, most=10) == [order_id]
    saga.sql("INSERT INTO lease (id, holder, until) VALUES (:id, 'dead', now() + interval '1 hour')", id=DEAD)
    async with transaction() as tx:
        (order,) = await claims.claim(tx, ORDERS, UUID(DEAD), most=1, ids=[order_id])
    await charge.refund(order, gateway())
    assert (await shown())[0], "it is shown as long as nobody knows better"
    saga.sql("UPDATE lease SET until = now() - interval '1 second'")

    await housekeeping()

    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    assert len(saga.ledger(order_id)[0]["refunds"]) == 1
    assert (await shown())[1] == "No order needs attention."
    saga.assert_books_balance()


async def test_a_gateway_that_does_not_answer_does_not_reset_what_is_known(
    saga: World, unique: str, monkeypatch: Any
) -> None:
    """A refusal is final under its key, so how often it was refused must not be forgotten because of a
    timeout in between."""
    monkeypatch.setenv("PAYMENT_BREAKER_FAILURES", "100")  # an open circuit would be another story
    settings.cache_clear()
    order_id = await order_in_review(saga, f"KNOWN-{unique}")
    monkeypatch.setattr(
        "saga.prefect.steps.exponential_backoff", lambda backoff_factor: lambda retries: [0.01] * retries
    )
    monkeypatch.setattr("saga.prefect.steps._with_retries_cache", {})
    saga.misbehave(error_rate=1)
    await retry(saga)
    entry = saga.journal(order_id)["process_payment"]
    assert entry.undo_error["code"] == "payment_gateway_error"
    assert entry.undo_error["refusals"] == 1
    assert saga.order(order_id).amount_at_risk == PRICE
    saga.misbehave(error_rate=0, take_refunds=True)
    await retry(saga)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED, (
        "a new request, and not the answer to the old one"
    )
    assert saga.money(order_id) == (PRICE, PRICE)


async def test_a_worker_with_a_lost_commit_answer_leaves_a_reopened_order_unchanged(
    saga: World, unique: str
) -> None:
    """It believes that it still has the order, which ended, was opened again, and is another's by now."""
    order_id = await order_in_review(saga, f"DEAF-{unique}")
    for number, name in enumerate(("deaf", "other"), 1):
        saga.sql(
            "INSERT INTO lease (id, holder, until) "
            "VALUES (CAST(:id AS uuid), :name, now() + interval '1 hour')",
            id=lease(number),
            name=name,
        )
    saga.sql("UPDATE customer_order SET outcome = NULL")
    async with transaction() as tx:
        (deaf,) = await claims.claim(tx, ORDERS, UUID(lease(1)), most=1, ids=[order_id])
    # the commit whose answer was lost
    saga.sql("UPDATE customer_order SET outcome = 'needs_attention', lease_id = NULL")
    saga.sql("UPDATE customer_order SET outcome = NULL")  # opened again
    async with transaction() as tx:
        (other,) = await claims.claim(tx, ORDERS, UUID(lease(2)), most=1, ids=[order_id])
    await postpone([deaf], seconds=60)
    row = saga.order(order_id)
    assert (str(row.lease_id), row.fence, row.not_before) == (lease(2), other.fence, None)


def lease(number: int) -> str:
    return f"00000000-0000-0000-0000-00000000000{number}"


# -- a person settles it


async def test_refunded_by_hand(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"HAND-{unique}")
    state = await resolve_order(
        order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="transfer 4711", return_state=True
    )
    assert (state.name, state.type) == ("Compensated", StateType.COMPLETED)

    row, ended = review_row(saga, order_id), read([order_id])[order_id]
    assert (row.resolution, row.amount_by_hand) == ("refunded_by_hand", PRICE)
    assert (ended.outcome, ended.amount_charged, ended.amount_refunded, ended.amount_at_risk) == (
        Outcome.COMPENSATED,
        PRICE,
        0,
        0,
    )
    assert {undone.compensation: undone.status for undone in ended.undone}[
        "refund_payment"
    ] == "refunded_by_hand"
    (entry,) = entries(saga, order_id)
    assert (entry.action, entry.by, entry.reference, entry.amount) == (
        "refunded_by_hand",
        "ann",
        "transfer 4711",
        PRICE,
    )
    assert re.match(r"Prefect run [0-9a-f-]{36}", entry.started_by), "whatever name was typed"
    assert saga.money(order_id) == (PRICE, 0), "past the gateway, which pays nothing"
    assert "999.99 USD" in saga.mail(order_id, "refund")
    assert orders_that_need_attention() == []
    books = {line.name: line for line in read_books(saga.database_url, None).rows}
    assert books["refunded by hand"].ours == "999.99 USD"
    assert "completed orders + at risk + refunded by hand" in books
    saga.assert_books_balance()

    again = await resolve_order(
        order_id, Resolution.REFUNDED_BY_HAND, "bob", reference="transfer 4712", return_state=True
    )
    assert again.name == "Compensated"
    assert len(entries(saga, order_id)) == 1, "the same twice does nothing the second time"
    with pytest.raises(AlreadyResolved, match="settled as refunded_by_hand"):
        await resolve_order(order_id, Resolution.WRITTEN_OFF, "bob", reason="no")
    assert await retry(saga) == {"retried": 0, "need_attention": 0}
    saga.assert_books_balance()


async def test_a_refund_by_hand_is_refused_if_the_gateway_has_paid_already(saga: World, unique: str) -> None:
    """Somebody refunded a part in the gateway's dashboard:
    a transfer of the whole amount would be the second refund."""
    order_id = await order_in_review(saga, f"TWICE-{unique}")
    (payment,) = [each for each in saga.ledger(order_id) if each["status"] == "succeeded"]
    saga.misbehave(take_refunds=True)
    refund = {"payment_id": payment["id"], "amount": 30_000, "currency": "USD"}
    httpx.post(f"{saga.gateway_url}/v1/refunds", json=refund, timeout=10).raise_for_status()
    with pytest.raises(RefundedAlready, match=r"refunded 300\.00 USD"):
        await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="transfer 4711")
    assert (entries(saga, order_id), review_row(saga, order_id).resolved_at) == ([], None), (
        "nothing is settled"
    )
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert saga.money(order_id) == (PRICE, PRICE), "the rest went back, and no more"
    saga.misbehave(take_refunds=False)


async def test_a_charge_of_another_amount_is_settled_once_the_gateway_has_given_it_back(
    saga: World, unique: str
) -> None:
    """Nothing goes back by itself on such a charge;
    a person refunds it in the dashboard, and trying again finds that."""
    order_id = f"OTHER-{unique}"
    await process_order(an_order(order_id, country="AQ", card="0000"), return_state=True)
    made = await gateway().create(
        order_id=order_id,
        amount=Decimal(5),
        currency="USD",
        method="credit_card",
        card_last4="1234",
        token=None,
        key=f"other-{unique}",
    )
    await gateway().confirm(made.id, key=f"confirm-other-{unique}")
    assert await refund_ended(order_id, gateway()) is not None
    assert (review_row(saga, order_id).amount_at_risk, saga.money(order_id)) == (Decimal(5), (Decimal(5), 0))
    refund = {"payment_id": made.id, "amount": 500, "currency": "USD"}
    httpx.post(f"{saga.gateway_url}/v1/refunds", json=refund, timeout=10).raise_for_status()
    state = await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert state.name == "Compensated"
    ended = read([order_id])[order_id]
    assert (ended.amount_charged, ended.amount_refunded, ended.amount_at_risk) == (Decimal(5), Decimal(5), 0)
    saga.assert_books_balance()


async def test_a_refund_by_hand_waits_for_a_gateway_that_does_not_answer(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"SILENT-{unique}")
    saga.misbehave(error_rate=1)
    decided = review.decision(
        order_id, Resolution.REFUNDED_BY_HAND, resolved_by="ann", reference="transfer 4711"
    )
    with pytest.raises(GatewayNotAsked, match="Choose hold"):
        await review.resolve(decided)
    saga.misbehave(error_rate=0)
    assert entries(saga, order_id) == []
    assert await review.resolve(decided)


async def test_written_off(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"OFF-{unique}")
    await resolve_order(
        order_id, Resolution.WRITTEN_OFF, "ann", reason="the account is closed", return_state=True
    )
    ended = read([order_id])[order_id]
    assert (ended.outcome, ended.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert entries(saga, order_id)[0].reason == "the account is closed"
    books = {line.name: line.ours for line in read_books(saga.database_url, None).rows}
    assert books["written off"] == "999.99 USD"
    assert "refund" not in saga.mail_kinds(order_id), "nothing went back, so nobody is told that it did"
    saga.assert_books_balance()


async def test_the_ledger_check_reports_a_missing_decision(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"FORGED-{unique}")
    await resolve_order(order_id, Resolution.WRITTEN_OFF, "ann", reason="r", return_state=True)
    saga.sql("DELETE FROM desk_entry")
    assert not read_books(saga.database_url, None).balanced


async def test_the_form_settles_no_other_amount_than_was_seen(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"FORM-{unique}")
    how: dict[str, Any] = {"reference": "transfer 4711", "return_state": True}
    refused = await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", amount="900 USD", **how)
    assert refused.is_failed()
    assert (entries(saga, order_id), review_row(saga, order_id).resolved_at) == ([], None)
    with pytest.raises(ResolutionIncomplete, match="amount"):
        await resolve_order(order_id, Resolution.HOLD, "ann", amount="999.99 USD")
    await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", amount="999.99 USD", **how)
    assert review_row(saga, order_id).amount_by_hand == PRICE
    saga.assert_books_balance()


async def test_retry_now(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"NOW-{unique}")
    state = await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert (state.name, state.type) == ("NeedsAttention", StateType.FAILED), "refused again"
    saga.misbehave(take_refunds=True)
    state = await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert state.name == "Compensated"
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert saga.money(order_id) == (PRICE, PRICE)
    assert [entry.action for entry in entries(saga, order_id)] == ["retry_now", "retry_now"]
    with pytest.raises(AlreadyResolved, match="twice"):
        await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="r")


async def test_a_refund_in_the_gateways_own_dashboard_is_found(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"DASHBOARD-{unique}")
    saga.misbehave(take_refunds=True)
    (payment,) = await gateway().find(order_id)
    await gateway().refund(payment.id, amount=PRICE, currency="USD", key=f"dashboard-{unique}")
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    assert len(saga.ledger(order_id)[0]["refunds"]) == 1


@pytest.mark.usefixtures("prefect_api")
async def test_a_held_order_is_not_retried_until_requested(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"HELD-{unique}")
    state = await resolve_order(
        order_id, Resolution.HOLD, "ann", reason="I pay it back on Monday", return_state=True
    )
    assert state.name == "Held"
    saga.misbehave(take_refunds=True)
    assert await retry(saga) == {"retried": 0, "need_attention": 1}
    assert saga.money(order_id) == (PRICE, 0)
    assert (await shown())[0][order_id]["next try"] == "on hold: only on request"
    await resolve_order(order_id, Resolution.HOLD, "ann", return_state=True)
    assert len(entries(saga, order_id)) == 1
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert saga.money(order_id) == (PRICE, PRICE)


async def test_from_python_with_the_database_only(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"PYTHON-{unique}")
    (case,) = orders_that_need_attention()
    assert (case.order_id, case.amount_at_risk) == (order_id, PRICE)
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:
        ended = await asyncio.to_thread(
            resolve_from_python,
            order_id,
            "refunded_by_hand",
            resolved_by="ann",
            reference="transfer 1",
            timeout=60,
        )
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    assert ended.outcome is Outcome.COMPENSATED
    assert getpass.getuser() in entries(saga, order_id)[0].started_by
    saga.assert_books_balance()


# -- wrong use


async def test_wrong_use_changes_nothing_and_explains_what_to_do(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"WRONG-{unique}")
    with pytest.raises(OrderUnknown, match="no order"):
        await resolve_order("NOBODY", Resolution.RETRY_NOW, "ann")
    with pytest.raises(ResolutionIncomplete, match="reference is missing"):
        await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann")
    with pytest.raises(ResolutionIncomplete, match="reference is missing"):
        await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference=" \t ")
    with pytest.raises(ResolutionIncomplete, match="reason is missing"):
        await resolve_order(order_id, Resolution.WRITTEN_OFF, "ann", reference="not a reason")
    with pytest.raises(ResolutionIncomplete, match="card number") as raised:
        review.decision(order_id, "written_off", resolved_by="ann", reason="card 4242 4242 4242 4242")
    assert "4242" not in str(raised.value)
    with pytest.raises(ResolutionIncomplete, match="one of"):
        review.decision(order_id, "forget it", resolved_by="ann")
    await process_order(an_order(f"FINE-{unique}"), return_state=True)
    with pytest.raises(NotUnderReview, match="it is completed"):
        await resolve_order(f"FINE-{unique}", Resolution.WRITTEN_OFF, "ann", reason="r")
    assert saga.order(order_id).outcome == Outcome.NEEDS_ATTENTION
    assert saga.sql("SELECT count(*) FROM desk_entry")[0][0] == 0


async def test_nothing_is_settled_by_hand_while_a_worker_refunds(saga: World, unique: str) -> None:
    """Or the money could go back twice."""
    order_id = await order_in_review(saga, f"BUSY-{unique}")
    decided = review.decision(order_id, Resolution.REFUNDED_BY_HAND, resolved_by="ann", reference="r")
    saga.sql("UPDATE attention SET next_retry_at = now()")
    async with transaction() as tx:
        await reopening.reopen_due(tx, most=1)
    with pytest.raises(OrderBusy):
        await review.resolve(decided)
    saga.misbehave(take_refunds=True)
    await housekeeping()
    with pytest.raises(AlreadyResolved, match="customer has it twice"):
        await review.resolve(decided)
    assert saga.money(order_id) == (PRICE, PRICE)
    saga.assert_books_balance()


@pytest.mark.parametrize("first", [Resolution.HOLD, Resolution.REFUNDED_BY_HAND])
async def test_a_decision_does_not_wait_for_an_unavailable_gateway(
    saga: World, unique: str, first: Resolution
) -> None:
    """Its retry is postponed until the gateway is available:
    that can be hours, and then the money would go back twice."""
    order_id = await order_in_review(saga, f"POSTPONED-{unique}")
    saga.sql(
        "UPDATE customer_order SET outcome = NULL, finished_at = NULL, "
        "waits_for = 'x', not_before = now() + interval '1 hour'"
    )
    assert "'hold'" in advice(orders_that_need_attention()[0])
    decided = review.decision(order_id, first, resolved_by="ann", reference="transfer 4711")
    assert await review.resolve(decided)
    if first is Resolution.HOLD:
        row = saga.order(order_id)
        assert (row.outcome, row.status, row.not_before, row.waits_for) == (
            Outcome.NEEDS_ATTENTION,
            "needs_attention",
            None,
            None,
        )
        assert review_row(saga, order_id).next_retry_at is None
        assert not await review.resolve(decided), "twice is once"
        assert (await retry(saga))["retried"] == 0
        assert saga.sql("SELECT amount_at_risk FROM attention") == [(PRICE,)]
        await resolve_order(
            order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="transfer 4711", return_state=True
        )
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, 0), "not by the gateway as well"
    assert saga.stock("PROD-001") == (100, 0)
    saga.assert_books_balance()


async def test_two_people_at_once_settle_it_once(saga: World, unique: str) -> None:
    order_id = await order_in_review(saga, f"TWO-{unique}")
    ends: list[Any] = []
    start = threading.Barrier(6)

    def settle(number: int) -> None:
        kind = {"reference": f"r{number}"} if number % 2 else {"reason": f"r{number}"}
        chosen = Resolution.REFUNDED_BY_HAND if number % 2 else Resolution.WRITTEN_OFF
        decided = review.decision(order_id, chosen, resolved_by=f"person {number}", **kind)
        start.wait(20)
        try:
            ends.append(review.resolve_sync(decided))
        except AlreadyResolved:
            ends.append("too late")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(settle, range(6)))
    assert sorted(map(str, ends)) == ["False", "False", "True", "too late", "too late", "too late"]
    await housekeeping()
    row = review_row(saga, order_id)
    assert row.amount_by_hand + row.amount_written_off == PRICE
    assert len(entries(saga, order_id)) == 1
    saga.assert_books_balance()


# -- without money


@pytest.mark.usefixtures("prefect_api")
async def test_a_release_that_fails_needs_attention_too(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No money is at risk; the retry gives the stock back once it can."""
    order_id = f"STOCK-{unique}"
    with monkeypatch.context() as broken:

        async def cannot(tx: Any, held: Any) -> None:
            raise RuntimeError("stock and reservations contradict each other")

        broken.setattr("shop.inventory.reservations.give_back", cannot)
        await process_order(an_order(order_id, card="0000"), return_state=True)
    row = review_row(saga, order_id)
    assert (row.step, row.amount_at_risk, row.error_code) == ("check_inventory", 0, "step_broken")
    shown_row = (await shown())[0][order_id]
    assert (shown_row["step"], shown_row["at risk"]) == ("check_inventory", "0.00 USD")
    assert saga.stock("PROD-001") == (100, 1)
    with pytest.raises(ResolutionIncomplete, match="no money is at risk"):
        await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="r")
    assert await retry(saga) == {"retried": 1, "need_attention": 0}
    assert saga.stock("PROD-001") == (100, 0)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    saga.assert_books_balance()


@pytest.mark.usefixtures("prefect_api")
async def test_money_settled_by_hand_does_not_hide_stock_that_is_still_held(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = f"BOTH-{unique}"
    with monkeypatch.context() as broken:

        async def cannot(tx: Any, held: Any) -> None:
            raise RuntimeError("no")

        broken.setattr("shop.inventory.reservations.give_back", cannot)
        await order_in_review(saga, order_id)
        assert (await shown())[0][order_id]["step"] == "process_payment"
        state = await resolve_order(
            order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="r", return_state=True
        )
        assert state.name == "NeedsAttention"
    row = review_row(saga, order_id)
    assert (row.step, row.amount_at_risk, row.amount_by_hand, row.resolution) == (
        "check_inventory",
        0,
        PRICE,
        None,
    )
    assert (await shown())[0][order_id]["step"] == "check_inventory", "what is still to be undone"
    saga.assert_books_balance()
    assert (await retry(saga))["need_attention"] == 0
    assert saga.stock("PROD-001") == (100, 0)
    assert (review_row(saga, order_id).resolution, review_row(saga, order_id).amount_by_hand) == (
        "undone",
        PRICE,
    )
    saga.assert_books_balance()


# -- the artifact never is in the way


@pytest.mark.usefixtures("prefect_api")
async def test_an_unavailable_prefect_server_keeps_no_order_from_review(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: Any) -> None:
        raise ConnectionError("no server")

    with monkeypatch.context() as gone:
        gone.setattr("flows.attention_artifact.acreate_table_artifact", fail)
        order_id = await order_in_review(saga, f"UNAVAILABLE-{unique}")
        assert not await attention_artifact.show_review_queue()
    assert review_row(saga, order_id).resolution is None
    await housekeeping()
    assert order_id in (await shown())[0], "the schedule shows it"


@pytest.mark.usefixtures("prefect_api")
async def test_an_unchanged_review_queue_makes_no_new_artifact(saga: World, unique: str) -> None:
    await order_in_review(saga, f"SAME-{unique}")
    first = await Artifact.aget(attention_artifact.KEY)
    await housekeeping()
    last = await Artifact.aget(attention_artifact.KEY)
    assert first is not None
    assert last is not None
    assert first.id == last.id


@pytest.mark.usefixtures("prefect_api")
async def test_hostile_ids_and_words_stay_what_they_are(saga: World, unique: str) -> None:
    order_id = f"<b>|[x](http://evil.example)`${{1+1}} {unique}"
    await order_in_review(saga, order_id)
    assert order_id in (await shown())[0]
    await resolve_order(
        order_id, Resolution.WRITTEN_OFF, "ann\r\nbob", reason="';--\n<script>", return_state=True
    )
    (entry,) = entries(saga, order_id)
    assert (entry.by, entry.reason) == ("ann bob", "';-- <script>")
