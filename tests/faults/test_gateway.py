"""A gateway that is slow, fails, resets, sends garbage, acts late or is unavailable: each order has its one
correct outcome, charged once or refunded, according to the gateway's own ledger."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter

from deployments.local.programs import Sandbox
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.gateways import gateway
from shop.payments.sandbox.behaviour import Fault, Move
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.reconcile import reconcile
from shop.settings import settings
from tasks.external_health import GATEWAY, available, unavailable
from tests.conftest import HOME, own_port
from tests.integration.world import World, an_order
from tests.waiting import until

PRICE = Decimal("9.99")
BatchRunner = Callable[[list[dict[str, Any]]], Awaitable[None]]


@pytest.fixture(scope="module")
def sandbox(world_dir: Path) -> Iterator[Sandbox]:
    """A gateway of this module's own, which it kills."""
    own_port(world_dir / "troubled")
    own = Sandbox(
        home=HOME,
        folder=world_dir / "troubled",
        logs=world_dir / "troubled-logs",
        pids=world_dir / "troubled-run",
    )
    try:
        own.start()
        yield own
    finally:
        own.stop()


@pytest.fixture
def trouble(saga: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A shop that retries an unavailable gateway after a short pause."""
    if not sandbox.running():
        sandbox.start()
    monkeypatch.setenv("PAYMENT_BREAKER_SECONDS", "0.5")
    monkeypatch.setenv("POLL_SECONDS", "0.2")
    settings.cache_clear()
    saga.receive("PROD-002", 1000)
    yield saga
    saga.misbehave(faults=[], forget_keys=False)


def order(order_id: str, **fields: Any) -> dict[str, Any]:
    return an_order(order_id, product="PROD-002", price="9.99", **fields)


async def own_runs(orders: list[dict[str, Any]]) -> None:
    await asyncio.gather(*(process_order(each, return_state=True) for each in orders))


async def pending_lane(orders: list[dict[str, Any]]) -> None:
    intake.submit(orders)
    async with consuming():
        await all_ended([each["id"] for each in orders], 90)


@asynccontextmanager
async def consuming() -> Any:
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:
        yield consumer
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


async def all_ended(order_ids: list[str], seconds: float) -> None:
    async def ended() -> bool:
        return report.count_ended(order_ids) == len(order_ids)

    await until(ended, seconds, f"{len(order_ids)} outcomes")


def assert_completed_once(world: World, order_ids: list[str]) -> None:
    ends = report.read(order_ids)
    assert {i: ends[i].outcome for i in order_ids} == dict.fromkeys(order_ids, Outcome.COMPLETED)
    assert {i: (world.charges(i), world.money(i)) for i in order_ids} == dict.fromkeys(
        order_ids, (1, (PRICE, 0))
    )
    assert {i: world.shipments(i) for i in order_ids} == dict.fromkeys(order_ids, 1)


LANES = pytest.mark.parametrize("lane", [pytest.param(own_runs, marks=pytest.mark.slow), pending_lane])
FORGETFUL = pytest.mark.parametrize(
    "forget_keys",
    [pytest.param(False, marks=pytest.mark.slow, id="keeps keys"), pytest.param(True, id="forgets keys")],
)
REFUNDING = [
    Fault.SLOW,
    Fault.ERROR_502,
    Fault.ERROR_500_AFTER,
    Fault.RESET_BEFORE,
    Fault.RESET_AFTER,
    Fault.GARBAGE,
    Fault.DUPLICATE,
]
CHARGING = [fault for fault in Fault if fault not in {Fault.PROCESSING, Fault.STALE, Fault.LATE}]


@LANES
@FORGETFUL
async def test_each_fault_while_charging(
    trouble: World, unique: str, lane: BatchRunner, forget_keys: bool
) -> None:
    """Each fault on each of the two moves, each twice, and each order is charged once."""
    rules, orders = [], []
    for fault in CHARGING:
        for move in (Move.CREATE, Move.CONFIRM):
            order_id = f"{fault}-{move}-{unique}"
            orders.append(order(order_id))
            rules.append(
                {
                    "fault": fault,
                    "move": move,
                    "order_id": order_id,
                    "times": 1 if fault is Fault.SLOW else 2,
                    "ms": 300,
                }
            )
    trouble.misbehave(faults=rules, forget_keys=forget_keys)
    await lane(orders)
    assert_completed_once(trouble, [each["id"] for each in orders])
    trouble.assert_books_balance()


@LANES
@FORGETFUL
async def test_what_takes_effect_late(
    trouble: World, unique: str, lane: BatchRunner, forget_keys: bool
) -> None:
    """After the client gave up, or long after it was accepted, while duplicates are refused."""
    late_create, late_charge, in_progress = (
        f"{name}-{unique}" for name in ("LATE-CREATE", "LATE-CHARGE", "IN-PROGRESS")
    )
    trouble.misbehave(
        forget_keys=forget_keys,
        faults=[
            {"fault": Fault.LATE, "move": Move.CREATE, "order_id": late_create, "times": 1, "ms": 100},
            {"fault": Fault.LATE, "move": Move.CONFIRM, "order_id": late_charge, "times": 1, "ms": 100},
            {
                "fault": Fault.PROCESSING,
                "move": Move.CONFIRM,
                "order_id": in_progress,
                "times": 1,
                "ms": 2500,
            },
        ],
    )
    await lane([order(order_id) for order_id in (late_create, late_charge, in_progress)])
    assert_completed_once(trouble, [late_create, late_charge, in_progress])
    trouble.assert_books_balance()


@LANES
@pytest.mark.slow
async def test_a_success_that_shows_up_after_the_order_was_given_up_is_refunded(
    trouble: World, unique: str, lane: BatchRunner
) -> None:
    """All retries are over; the compensation waits until the gateway unlocks the payment."""
    order_id = f"TOO-LATE-{unique}"
    trouble.misbehave(
        faults=[
            {"fault": Fault.PROCESSING, "move": Move.CONFIRM, "order_id": order_id, "times": 1, "ms": 14_000}
        ]
    )
    await lane([order(order_id)])
    end = report.read([order_id])[order_id]
    assert (end.outcome, end.failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert trouble.money(order_id) == (PRICE, PRICE)
    trouble.assert_books_balance()


@LANES
async def test_one_order_that_never_gets_through_is_undone_and_the_others_complete(
    trouble: World, unique: str, lane: BatchRunner
) -> None:
    """The gateway answers everybody else, so it is not the gateway: nothing is postponed for ever."""
    failing, others = f"FAILING-{unique}", [f"FINE-{unique}-{i}" for i in range(9)]
    trouble.misbehave(faults=[{"fault": Fault.ERROR_500, "move": Move.CONFIRM, "order_id": failing}])
    await lane([order(order_id) for order_id in (failing, *others)])
    assert_completed_once(trouble, others)
    assert report.read([failing])[failing].outcome is Outcome.COMPENSATED
    assert [payment["status"] for payment in trouble.ledger(failing)] == ["cancelled"]
    trouble.assert_books_balance()


@LANES
@FORGETFUL
async def test_each_fault_while_refunding(
    trouble: World, unique: str, lane: BatchRunner, forget_keys: bool
) -> None:
    rules, orders = [], []
    for fault in REFUNDING:
        for move in (Move.FIND, Move.REFUND):
            order_id = f"{fault}-{move}-{unique}"
            orders.append(order(order_id, country="AQ"))
            rules.append({"fault": fault, "move": move, "order_id": order_id, "times": 1, "ms": 300})
    trouble.misbehave(faults=rules, forget_keys=forget_keys)
    await lane(orders)
    for each in orders:
        assert report.read([each["id"]])[each["id"]].outcome is Outcome.COMPENSATED, each["id"]
        assert trouble.money(each["id"]) == (PRICE, PRICE), each["id"]
        assert sum(len(payment["refunds"]) for payment in trouble.ledger(each["id"])) == 1
    trouble.assert_books_balance()


async def test_a_charge_that_a_search_does_not_show_is_refunded_all_the_same(
    trouble: World, unique: str
) -> None:
    """Its id is in the journal: finding nothing is no proof that there is nothing."""
    order_id = f"HIDDEN-{unique}"
    trouble.misbehave(faults=[{"fault": Fault.STALE, "move": Move.FIND, "order_id": order_id, "times": 3}])
    await own_runs([order(order_id, country="AQ")])
    assert report.read([order_id])[order_id].outcome is Outcome.COMPENSATED
    trouble.misbehave(faults=[])
    assert trouble.money(order_id) == (PRICE, PRICE)
    trouble.assert_books_balance()


async def test_a_payment_made_twice_is_charged_once_and_reconciled(
    trouble: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first creation's answer is lost, a search does not show it,
    and the gateway forgets keys: a second one is made."""
    order_id, since = f"DOUBLE-{unique}", datetime.now(UTC)
    trouble.misbehave(
        forget_keys=True,
        faults=[
            {"fault": Fault.RESET_AFTER, "move": Move.CREATE, "order_id": order_id, "times": 1},
            {"fault": Fault.STALE, "move": Move.FIND, "order_id": order_id, "times": 1},
        ],
    )
    await own_runs([order(order_id)])
    assert_completed_once(trouble, [order_id])
    assert sorted(payment["status"] for payment in trouble.ledger(order_id)) == ["created", "succeeded"]
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    found = [d async for d in reconcile(gateway(), since)]
    assert [(d.kind, d.order_id, d.repaired) for d in found] == [(Kind.LEFT_UNCONFIRMED, order_id, True)]
    assert sorted(payment["status"] for payment in trouble.ledger(order_id)) == ["cancelled", "succeeded"]
    assert_completed_once(trouble, [order_id])


# -- an unavailable gateway


def kill(sandbox: Sandbox) -> None:
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGKILL)


async def events_since(began: datetime, name: str) -> int:
    wanted = EventFilter(event=EventNameFilter(name=[name]), occurred=EventOccurredFilter(since=began))
    async with get_client() as client:
        answer = await client._client.post(
            "/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50}
        )
        return len(answer.raise_for_status().json()["events"])


async def wait_for_events(began: datetime, name: str, times: int) -> None:
    async def there() -> bool:
        return await events_since(began, name) == times

    await until(there, 30, f"{times} x {name}")


async def test_killed_in_the_middle_and_back_later_every_order_completes(
    trouble: World, sandbox: Sandbox, unique: str
) -> None:
    """The gateway's process is killed while orders are being charged, and comes back on the same port and
    ledger. Meanwhile the consumer continues with orders that do not need it.
    Nothing is undone, nothing is charged twice."""
    began = datetime.now(UTC)
    trouble.misbehave(latency_ms=150)
    ids = [f"OUTAGE-{unique}-{i}" for i in range(60)]
    intake.submit([order(order_id) for order_id in ids])
    async with consuming() as consumer:

        async def some_are_charged() -> bool:
            # beside the consumer, which shares this loop
            return await asyncio.to_thread(trouble.charges, ids[0]) == 1

        await until(some_are_charged, 30, "the first charges")
        kill(sandbox)

        async def postpone() -> bool:
            rows = trouble.sql(
                "SELECT count(*) FROM customer_order "
                "WHERE outcome IS NULL AND lease_id IS NULL AND not_before > now()"
            )
            return bool(rows[0][0])

        await until(postpone, 30, "orders to be postponed")

        more = [f"MEANWHILE-{unique}-{i}" for i in range(5)]
        others = {f"BAD-{unique}": Outcome.REJECTED, f"SHORT-{unique}": Outcome.OUT_OF_STOCK}
        intake.submit([order(order_id) for order_id in more])
        intake.submit([order(f"BAD-{unique}", items=[]), an_order(f"SHORT-{unique}", product="OUT-OF-STOCK")])
        await all_ended(list(others), 15)
        assert {i: end.outcome for i, end in report.read(list(others)).items()} == others, (
            "the consumer is not held"
        )
        assert not consumer.done()
        open_now = trouble.sql("SELECT count(*) FROM customer_order WHERE outcome IS NULL")[0][0]
        assert open_now >= len(more)
        assert trouble.sql("SELECT count(*) FROM customer_order WHERE failure IS NOT NULL")[0][0] == 0, (
            "nothing is being undone"
        )

        sandbox.start()
        await all_ended([*ids, *more], 60)
    assert_completed_once(trouble, [*ids, *more])
    trouble.assert_books_balance()
    await wait_for_events(began, unavailable(GATEWAY), 1)
    await wait_for_events(began, available(GATEWAY), 1)


@pytest.mark.slow
async def test_an_own_run_waits_for_an_unavailable_gateway(
    trouble: World, sandbox: Sandbox, unique: str
) -> None:
    """From the beginning to the end of the run's retries:
    it is postponed, and completes when the gateway is available again."""
    kill(sandbox)
    order_id = f"PATIENT-{unique}"
    run = asyncio.create_task(process_order(order(order_id), return_state=True))

    async def postpone() -> bool:
        rows = trouble.sql(
            "SELECT 1 FROM customer_order WHERE id = :id AND not_before IS NOT NULL AND outcome IS NULL",
            id=order_id,
        )
        return bool(rows)

    await until(postpone, 40, "the order to be postponed")
    assert not run.done()
    sandbox.start()
    state = await run
    assert state.name == "Completed"
    assert_completed_once(trouble, [order_id])
    trouble.assert_books_balance()


@pytest.mark.parametrize("dead", ["resetting", "silent"])
@pytest.mark.short_form("silent")
async def test_a_refund_waits_for_an_unavailable_gateway(
    trouble: World, sandbox: Sandbox, unique: str, dead: str
) -> None:
    """Charged, then refused by the carrier while the gateway cannot refund:
    no manual review, it is refunded when the gateway is available."""
    ids = [f"BACK-{unique}-{i}" for i in range(6)]
    trouble.misbehave(
        faults=[
            {"fault": Fault.RESET_BEFORE if dead == "resetting" else Fault.LATE, "move": move}
            for move in (Move.FIND, Move.REFUND)
        ]
    )
    intake.submit([order(order_id, country="AQ") for order_id in ids])
    async with consuming():

        async def postpone() -> bool:
            rows = trouble.sql(
                "SELECT count(*) FROM customer_order "
                "WHERE failure IS NOT NULL AND lease_id IS NULL AND not_before > now()"
            )
            return bool(rows[0][0])

        await until(postpone, 60, "their undoing to be postponed")
        assert {end.outcome for end in report.read(ids).values()} <= {None, Outcome.COMPENSATED}
        trouble.misbehave(faults=[])
        await all_ended(ids, 60)
    assert {end.outcome for end in report.read(ids).values()} == {Outcome.COMPENSATED}
    assert [trouble.money(order_id) for order_id in ids] == [(PRICE, PRICE)] * 6
    trouble.assert_books_balance()
