"""The pending lane: batches, those who leave them, side by side with others, and recovery."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as rounds
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from deployments.trigger import run_order
from flows.housekeeping import housekeeping
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.wakeup import is_consumer_running
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.settings import settings
from tests.integration.world import World, an_order
from tests.waiting import until

STEPS = [step.name for step in ORDER_SAGA]
_numbers = itertools.count(1)
DEAD = "00000000-0000-0000-0000-00000000000d"


@pytest.mark.usefixtures("prefect_api")
async def test_a_batch_shares_a_task_run_for_each_step(saga: World, unique: str) -> None:
    orders = [an_order(f"BATCH-{unique}-{i}", product="PROD-004", price="249.00") for i in range(20)]
    intake.submit(orders)
    state = await process_pending_orders(consumer_seconds=0, return_state=True)

    ends = report.read([order["id"] for order in orders])
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    assert all(saga.money(order["id"]) == (Decimal(249), 0) for order in orders)
    assert saga.stock("PROD-004") == (5, 0)
    assert len(saga.mails()) == 20
    assert list(saga.labels(ends)) == list(ends)
    assert not (saga.var_dir / "labels").exists(), "a label is drawn when somebody prints it"
    async with get_client() as client:

        async def shared() -> bool:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            names = [run.name for run in await client.read_task_runs(flow_run_filter=mine)]
            return Counter(name for name in names if "20 instances" in name) == Counter(
                f"{step} 20 instances" for step in STEPS
            )

        await until(shared, 20, "a task run for each step of the batch")


async def test_those_that_fail_leave_and_the_rest_continue(saga: World, unique: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "good": {},
        "declined": {"card": "0000"},
        "unshippable": {"country": "AQ"},
        "stuck": {"card": "0259", "country": "AQ"},
        "invalid": {"items": []},
        "short": {"product": "OUT-OF-STOCK"},
        "flaky": {"card": "0119"},
    }
    orders = {
        f"{kind}-{unique}-{i}": an_order(f"{kind}-{unique}-{i}", **fields)
        for kind, fields in kinds.items()
        for i in range(3)
    }
    intake.submit(orders.values())
    await process_pending_orders(consumer_seconds=0)

    ends = report.read(list(orders))
    expected = {
        "good": Outcome.COMPLETED,
        "declined": Outcome.COMPENSATED,
        "unshippable": Outcome.COMPENSATED,
        "stuck": Outcome.NEEDS_ATTENTION,
        "invalid": Outcome.REJECTED,
        "short": Outcome.OUT_OF_STOCK,
        "flaky": Outcome.COMPLETED,
    }
    assert {i: end.outcome for i, end in ends.items()} == {i: expected[i.split("-")[0]] for i in orders}
    price = Decimal("999.99")
    money = {"good": (price, 0), "flaky": (price, 0), "unshippable": (price, price), "stuck": (price, 0)}
    for order_id in orders:
        assert saga.money(order_id) == money.get(order_id.split("-")[0], (0, 0)), order_id
    assert saga.stock("PROD-001") == (100 - 6, 0)
    saga.assert_books_balance()


async def test_a_slow_order_does_not_hold_up_its_batch(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENT_TIMEOUT_SECONDS", "8")
    monkeypatch.setenv("STRAGGLER_SECONDS", "0.5")
    settings.cache_clear()
    orders = [an_order(f"SLOW-{unique}-{i}", card="0341" if i == 0 else "1234") for i in range(8)]
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)
    ends = report.read([order["id"] for order in orders])
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    slow, others = ends[orders[0]["id"]], [ends[order["id"]] for order in orders[1:]]
    assert slow.seconds is not None
    assert max(other.seconds or 99 for other in others) < slow.seconds - 3, (
        "the others did not wait for the slow one"
    )
    assert [saga.charges(order["id"]) for order in orders] == [1] * 8
    assert slow.timings[STEPS.index("process_payment")].attempts == 2, (
        "the call that was slow was waited for, and then looked up, not sent again"
    )


async def test_a_running_consumer_is_woken(saga: World, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling is set to a minute, so that only the signal can be what wakes it."""
    monkeypatch.setenv("POLL_SECONDS", "60")
    settings.cache_clear()
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:

        async def consuming() -> bool:
            return is_consumer_running(ORDERS)

        await until(consuming, 20, "the consumer")
        begin = time.monotonic()
        ended = await asyncio.to_thread(run_order, an_order(f"WOKEN-{unique}"), timeout=30)
        assert ended.outcome is Outcome.COMPLETED
        assert time.monotonic() - begin < 15
        assert saga.charges(f"WOKEN-{unique}") == 1
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


async def test_a_consumer_that_is_stopped_loses_nothing(saga: World, unique: str) -> None:
    """Its orders are finished or handed back,
    and not undone: another consumer takes them to their outcome."""
    orders = [an_order(f"GO-{unique}-{i}", card="0341" if i % 2 else "1234") for i in range(6)]
    intake.submit(orders)
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))

    async def charging() -> bool:
        return saga.money(orders[1]["id"])[0] > 0

    await until(charging, 20, "the first charge")
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    held = saga.sql("SELECT count(*) FROM customer_order WHERE lease_id IS NOT NULL")[0][0]
    assert held == 0, "everything is finished or handed back"
    await process_pending_orders(consumer_seconds=0)
    ends = report.read([order["id"] for order in orders])
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    assert [saga.charges(order["id"]) for order in orders] == [1] * 6
    saga.assert_books_balance()


async def test_two_consumers_and_own_runs_on_the_same_orders(saga: World, unique: str) -> None:
    orders = [an_order(f"SIDE-{unique}-{i}") for i in range(12)]
    intake.submit(orders)
    await asyncio.gather(
        process_pending_orders(consumer_seconds=0, batch_size=4),
        process_pending_orders(consumer_seconds=0, batch_size=3),
        *(process_order(order, return_state=True) for order in orders[:3]),
    )
    ends = report.read([order["id"] for order in orders])
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    assert [saga.charges(order["id"]) for order in orders] == [1] * 12
    assert saga.stock("PROD-001") == (88, 0)


@pytest.mark.parametrize(
    "recover",
    [housekeeping, lambda: process_pending_orders(consumer_seconds=0)],
    ids=["recovery", "consumer"],
)
async def test_orders_of_a_dead_worker_are_recovered(saga: World, unique: str, recover: Any) -> None:
    """One had reserved, one had begun to be undone; their worker's lease has run out."""
    forward, backward = an_order(f"FORWARD-{unique}"), an_order(f"BACKWARD-{unique}")
    intake.submit([forward, backward])
    saga.sql(
        "INSERT INTO lease (id, holder, until) VALUES (:id, 'dead', now() - interval '1 second')", id=DEAD
    )
    saga.sql("UPDATE customer_order SET fence = 1, lease_id = :id, started_at = now()", id=DEAD)
    saga.sql("UPDATE product SET reserved = 2 WHERE id = 'PROD-001'")
    for order in (forward, backward):
        saga.sql(
            "INSERT INTO reservation (order_id, id, state, items, expires_at) "
            """VALUES (:id, 'RES-' || :id, 'held', '{"PROD-001": 1}', now() + interval '1 hour')""",
            id=order["id"],
        )
        saga.sql(
            "INSERT INTO order_step (order_id, step, status, result) "
            "VALUES (:id, 'validate_order', 'done', '{}')",
            id=order["id"],
        )
        saga.sql(
            "INSERT INTO order_step (order_id, step, status, result, undo_due) "
            "VALUES (:id, 'check_inventory', 'done', '{}', true)",
            id=order["id"],
        )
    saga.sql(
        """UPDATE customer_order SET failing_step = 'process_payment', """
        """failure = '{"code": "payment_declined", "message": "no", "reasons": ["the bank said no"]}' """
        "WHERE id = :id",
        id=backward["id"],
    )

    await recover()

    ends = report.read([forward["id"], backward["id"]])
    assert (ends[forward["id"]].outcome, ends[forward["id"]].takeovers) == (Outcome.COMPLETED, 1)
    assert (ends[backward["id"]].outcome, ends[backward["id"]].reasons) == (
        Outcome.COMPENSATED,
        ["the bank said no"],
    )
    assert saga.charges(forward["id"]) == 1
    assert saga.ledger(backward["id"]) == [], "an order whose undoing had begun is not charged"
    assert saga.stock("PROD-001") == (99, 0)
    saga.assert_books_balance()


async def test_an_expired_reservation_goes_back_and_its_order_reserves_anew(saga: World, unique: str) -> None:
    order = an_order(f"EXPIRED-{unique}", product="LAST-ONE", price="10.00")
    intake.submit([order])
    saga.sql("UPDATE customer_order SET fence = 1, not_before = now() + interval '1 hour'")
    saga.sql("UPDATE product SET reserved = 1 WHERE id = 'LAST-ONE'")
    saga.sql(
        "INSERT INTO reservation (order_id, id, state, items, expires_at) "
        """VALUES (:id, 'RES', 'held', '{"LAST-ONE": 1}', now() - interval '1 second')""",
        id=order["id"],
    )
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, result) "
        "VALUES (:id, 'validate_order', 'done', '{}')",
        id=order["id"],
    )
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, result, undo_due) "
        "VALUES (:id, 'check_inventory', 'done', '{}', true)",
        id=order["id"],
    )
    await housekeeping()
    assert saga.stock("LAST-ONE") == (1, 0), "another order can have it"

    saga.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert report.read([order["id"]])[order["id"]].outcome is Outcome.COMPLETED
    assert saga.stock("LAST-ONE") == (0, 0)
    assert saga.charges(order["id"]) == 1


MIX = st.lists(
    st.fixed_dictionaries(
        {
            "card": st.sampled_from(["1234", "1234", "1234", "0000", "0002", "0119", "0259"]),
            "country": st.sampled_from(["US", "US", "AQ"]),
            "product": st.sampled_from(
                ["PROD-001", "PROD-004", "LAST-ONE", "OUT-OF-STOCK", "NO-SUCH-PRODUCT"]
            ),
            "own_run": st.sampled_from([False, False, False, True]),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(mix=MIX)
@rounds(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_the_books_balance_after_any_mix(saga: World, unique: str, mix: list[dict[str, Any]]) -> None:
    """Both lanes at once. The rounds share one database, so the books cover all of them."""
    stamp = next(_numbers)
    orders = [
        (
            an_order(f"MIX-{unique}-{stamp}-{i}", card=o["card"], country=o["country"], product=o["product"]),
            o["own_run"],
        )
        for i, o in enumerate(mix)
    ]
    intake.submit([order for order, own in orders if not own])
    await asyncio.gather(
        process_pending_orders(consumer_seconds=0, batch_size=5),
        *(process_order(order, return_state=True) for order, own in orders if own),
    )
    ends = report.read([order["id"] for order, _ in orders])
    assert all(end.outcome for end in ends.values())
    for end in ends.values():
        charged, refunded = saga.money(end.order_id)
        kept = (
            Decimal("999.99") if end.outcome in {Outcome.COMPLETED, Outcome.NEEDS_ATTENTION} else Decimal(0)
        )
        assert charged - refunded == kept, end
        assert saga.charges(end.order_id) <= 1
    saga.assert_books_balance()
