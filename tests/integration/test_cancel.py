"""Cancelling, at every stage: either shipped and not refunded,
or refunded and not shipped; and back again, when a person wants it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ParameterTypeError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from deployments.local.programs import Sandbox
from deployments.review import cancel_order as cancel_from_python
from deployments.review import preview_cancel as preview_from_python
from flows.cancel_order import PREVIEW_KEY, cancel_order
from flows.housekeeping import housekeeping
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import claims
from saga.cancelling import Asked
from saga.database import transaction
from saga.database_action import run_in_database
from saga.errors import SagaCancelled, SagaReturned
from saga.execution import StepExecution
from saga.finish import finish, postpone, record_failures
from saga.lease import lease
from saga.prefect.compensation import compensate_step
from saga.prefect.run import run_saga
from saga.prefect.steps import run_step
from shop.notifications import outbox
from shop.orders import intake
from shop.orders.order import OrderInstance
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.orders.report import read
from shop.orders.store import ORDERS
from shop.payments.gateways import gateway
from shop.review.cancel import ask_to_cancel
from shop.review.errors import OrderUnknown, ResolutionIncomplete
from shop.review.preview import CancelPreview, Effect, preview_cancel
from shop.settings import settings
from shop.shipping.fulfilment import fulfil
from tests.integration.world import World, an_order
from tests.waiting import until

PRICE = Decimal("999.99")
STEPS = [step.name for step in ORDER_SAGA]
RESERVED, PAID, CONFIRMED, SHIPPED = (
    STEPS.index(name) + 1
    for name in ("check_inventory", "process_payment", "generate_confirmation", "fulfill_order")
)
"""After so many steps."""
DEAD = "00000000-0000-0000-0000-0000000000dc"


@pytest.fixture(autouse=True)
def behave(sandbox: Sandbox) -> Iterator[None]:
    """Resets the gateway's behaviour after each test."""
    yield
    switches = {"take_refunds": False, "error_rate": 0, "hang_rate": 0, "forget_keys": False, "latency_ms": 0}
    httpx.post(f"{sandbox.url}/sandbox/behaviour", json=switches, timeout=10).raise_for_status()


async def cancel(order_id: str, *, confirmed: bool = True) -> Any:
    return await cancel_order(order_id, "changed their mind", "ann", confirmed, return_state=True)


def ended(order_id: str) -> OrderOutcome:
    return read([order_id])[order_id]


def assert_undone(saga: World, order_id: str, *, shipped: bool = False) -> None:
    """Nothing of it is left: by the ledger, the shelf and the books."""
    charged, refunded = saga.money(order_id)
    assert charged == refunded, order_id
    parcels = saga.sql("SELECT returned_at FROM shipment WHERE order_id = :id", id=order_id)
    assert [parcel.returned_at is not None for parcel in parcels] == ([True] if shipped else []), order_id
    assert ended(order_id).outcome is Outcome.COMPENSATED


async def begun(saga: World, order_id: str, steps: int, **fields: Any) -> OrderInstance:
    """An order that a worker took so many steps and handed back."""
    intake.submit([an_order(order_id, **fields)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[order_id])
        for step in ORDER_SAGA.steps[:steps]:
            await run_step(StepExecution(step, [order]))
        await postpone([order], seconds=0)
    return order


# -- what it would do


@pytest.mark.usefixtures("prefect_api")
async def test_a_preview_changes_nothing(saga: World, unique: str) -> None:
    order_id = f"PREVIEW-{unique}"
    await process_order(an_order(order_id), return_state=True)
    before = saga.order(order_id)
    state = await cancel(order_id, confirmed=False)
    assert (state.name, state.type) == ("Preview", StateType.COMPLETED)
    seen: CancelPreview = await state.aresult()
    assert seen.effect is Effect.RETURN
    assert [planned.compensation for planned in seen.undo] == [
        "return_shipment",
        "refund_payment",
        "release_inventory",
    ]
    assert (seen.pieces, seen.refund, seen.currency) == ({"PROD-001": 1}, PRICE, "USD")
    fee = Decimal(saga.ledger(order_id)[0]["fee"]) / 100
    assert (seen.fee_lost, seen.refund_is_certain) == (fee, True)
    assert saga.order(order_id) == before
    artifact = await Artifact.aget(PREVIEW_KEY)
    assert artifact is not None
    assert "999.99 USD" in str(artifact.data)
    assert saga.money(order_id) == (PRICE, 0)


@pytest.mark.usefixtures("prefect_api")
async def test_a_database_failure_after_the_outcome_only_delays_the_mail(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = f"MAIL-{unique}"
    await process_order(an_order(order_id), return_state=True)

    async def gone(_order_ids: list[str]) -> bool:
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))

    monkeypatch.setattr(outbox, "is_due", gone)
    state = await cancel(order_id)
    assert (state.name, state.type) == ("Compensated", StateType.COMPLETED)
    assert_undone(saga, order_id, shipped=True)
    saga.assert_books_balance()


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
async def test_the_preview_at_every_stage(saga: World, unique: str, steps: int) -> None:
    order_id = f"STAGE-{unique}"
    await begun(saga, order_id, steps)
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    undo = (
        ["return_shipment"] * (steps >= SHIPPED)
        + ["refund_payment"] * (steps >= PAID)
        + ["release_inventory"] * (steps >= RESERVED)
    )
    assert [planned.compensation for planned in seen.undo] == undo
    assert seen.effect is (Effect.RETURN if steps >= SHIPPED else Effect.CANCEL)
    assert seen.pieces == ({"PROD-001": 1} if steps >= RESERVED else {})
    assert seen.refund == (PRICE if steps >= PAID else 0)
    assert not seen.in_hand


async def test_the_preview_of_what_has_ended(saga: World, unique: str) -> None:
    for order_id, fields in {
        f"DECLINED-{unique}": {"card": "0000"},
        f"STUCK-{unique}": {"card": "0259", "country": "AQ"},
    }.items():
        await process_order(an_order(order_id, **fields), return_state=True)
        seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
        assert (seen.effect, seen.undo, seen.refund) == (Effect.NOTHING, [], 0)


async def test_a_charge_with_unknown_result_is_reported_as_unknown(saga: World, unique: str) -> None:
    order_id = f"UNCLEAR-{unique}"
    await begun(saga, order_id, RESERVED)
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, undo_due) "
        "VALUES (:id, 'process_payment', 'begun', true)",
        id=order_id,
    )
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    assert (seen.refund, seen.refund_is_certain) == (PRICE, False)
    assert ("refund", "at most 999.99 USD") in seen.lines()


async def test_the_preview_counts_what_the_gateway_s_dashboard_has_refunded(saga: World, unique: str) -> None:
    order_id = f"DASH-{unique}"
    await process_order(an_order(order_id), return_state=True)
    (payment,) = saga.ledger(order_id)
    refund = {"payment_id": payment["id"], "amount": 30_000, "currency": "USD"}
    httpx.post(f"{saga.gateway_url}/v1/refunds", json=refund, timeout=10).raise_for_status()
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    assert (seen.refund, seen.refunded, seen.refund_is_certain) == (PRICE - 300, Decimal(300), True)
    await cancel(order_id)
    assert saga.money(order_id) == (PRICE, PRICE), "what the preview said went back, and no more"
    assert preview_from_python(order_id).refund == 0


async def test_the_preview_without_the_gateway_states_an_upper_bound(saga: World, unique: str) -> None:
    order_id = f"UNAVAILABLE-{unique}"
    await process_order(an_order(order_id), return_state=True)
    saga.misbehave(error_rate=1)
    try:
        seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    finally:
        saga.misbehave(error_rate=0)
    assert (seen.refund, seen.refund_is_certain) == (PRICE, False)


# -- doing it, at every stage


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
async def test_an_order_that_no_worker_has_claimed(saga: World, unique: str, steps: int) -> None:
    """Before the first step it only waits; once shipped its notification is postponed;
    after the last step its worker died before it recorded the outcome."""
    order_id = f"STOP-{unique}"
    await begun(saga, order_id, steps)
    state = await cancel(order_id)
    assert (state.name, state.type) == ("Compensated", StateType.COMPLETED)
    shipped = steps >= SHIPPED
    assert ended(order_id).reasons == [f"{'returned' if shipped else 'cancelled'}: changed their mind"]
    assert saga.money(order_id) == ((PRICE, PRICE) if steps >= PAID else (0, 0))
    assert saga.charges(order_id) == (1 if steps >= PAID else 0), (
        "an order that is to be cancelled is not charged"
    )
    assert saga.stock("PROD-001") == (100, 0)
    assert_undone(saga, order_id, shipped=shipped)
    assert [name for name in saga.mails() if "refund" not in name] == [], "no confirmation leaves any more"
    saga.assert_books_balance()


async def test_a_completed_order_is_returned(saga: World, unique: str) -> None:
    order_id = f"RETURN-{unique}"
    await process_order(an_order(order_id, product="PROD-004", price="249.00"), return_state=True)
    assert saga.stock("PROD-004") == (24, 0)
    state = await cancel(order_id)
    assert state.name == "Compensated"
    assert ended(order_id).reasons == ["returned: changed their mind"]
    assert [undone.compensation for undone in ended(order_id).undone] == [
        "return_shipment",
        "refund_payment",
        "release_inventory",
    ]
    assert saga.money(order_id) == (249, 249)
    assert saga.stock("PROD-004") == (25, 0)
    assert_undone(saga, order_id, shipped=True)
    mail = saga.mail(order_id, "refund")
    assert "249.00 USD" in mail
    assert "counts as returned" in mail
    row = saga.order(order_id)
    assert (row.cancel_reason, row.cancel_requested_by) == ("changed their mind", "ann")
    saga.assert_books_balance()


async def test_twice_cancels_once(saga: World, unique: str) -> None:
    order_id = f"TWICE-{unique}"
    await process_order(an_order(order_id), return_state=True)
    saga.misbehave(forget_keys=True)
    states = await asyncio.gather(*(cancel(order_id) for _ in range(4)))
    states.append(await cancel(order_id))
    assert {state.name for state in states} == {"Compensated"}
    assert [len(payment["refunds"]) for payment in saga.ledger(order_id)] == [1]
    assert saga.stock("PROD-001") == (100, 0)
    assert saga.sql("SELECT count(*) FROM desk_entry")[0][0] == 1
    saga.assert_books_balance()


@pytest.mark.parametrize(
    ("fields", "outcome"), [({"card": "0000"}, "Compensated"), ({"items": []}, "Rejected")]
)
async def test_what_has_ended_otherwise_stays_as_it_is(
    saga: World, unique: str, fields: dict[str, Any], outcome: str
) -> None:
    order_id = f"ENDED-{unique}"
    await process_order(an_order(order_id, **fields), return_state=True)
    before = saga.order(order_id)
    assert (await cancel(order_id)).name == outcome
    assert saga.order(order_id) == before


async def test_wrong_use(saga: World, unique: str) -> None:
    with pytest.raises(OrderUnknown, match="no order 'NOBODY'"):
        await cancel_order("NOBODY", "r", "ann", True)
    with pytest.raises(ParameterTypeError):
        await cancel_order("NOBODY", "", "ann", True)
    order_id = f"WRONG-{unique}"
    await process_order(an_order(order_id), return_state=True)
    with pytest.raises(ResolutionIncomplete, match="reason is missing"):
        await cancel_order(order_id, " \u200b ", "ann", True)
    with pytest.raises(ResolutionIncomplete, match="card number"):
        await cancel_order(order_id, "4242424242424242", "ann", True)
    assert saga.order(order_id).outcome == Outcome.COMPLETED


async def test_a_return_that_cannot_be_refunded_needs_attention(saga: World, unique: str) -> None:
    order_id = f"REFUSED-{unique}"
    await process_order(an_order(order_id, card="0259"), return_state=True)
    state = await cancel(order_id)
    assert (state.name, state.type) == ("NeedsAttention", StateType.FAILED)
    assert saga.stock("PROD-001") == (100, 0), "the rest is done"
    assert "refund" not in saga.mail_kinds(order_id)
    saga.assert_books_balance()
    saga.misbehave(take_refunds=True)
    saga.sql("UPDATE attention SET next_retry_at = now()")
    assert (await housekeeping())["retried"] == 1
    assert ended(order_id).reasons == ["returned: changed their mind"]
    assert saga.money(order_id) == (PRICE, PRICE)
    assert "counts as returned" in saga.mail(order_id, "refund")
    assert_undone(saga, order_id, shipped=True)
    saga.assert_books_balance()


# -- an order that a worker holds


async def test_a_claimed_order_is_stopped_before_it_is_charged(saga: World, unique: str) -> None:
    """Its worker had looked before anybody asked."""
    order_id = f"HAND-{unique}"
    intake.submit([an_order(order_id)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[order_id])
        for step in ORDER_SAGA.steps[:RESERVED]:
            await run_step(StepExecution(step, [order]))
        seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
        assert seen.in_hand
        cancelling = asyncio.create_task(cancel(order_id))

        async def asked() -> bool:
            return saga.order(order_id).cancel_requested_at is not None

        await until(asked, 20, "the request")
        await run_saga(ORDER_SAGA, order)
    assert (await cancelling).name == "Compensated"
    assert (ended(order_id).failing_step, ended(order_id).reasons) == (
        "process_payment",
        ["cancelled: changed their mind"],
    )
    assert saga.ledger(order_id) == [], "nothing reached the gateway"
    assert saga.stock("PROD-001") == (100, 0)
    assert_undone(saga, order_id)


async def test_a_claimed_order_is_stopped_at_the_point_of_no_return(saga: World, unique: str) -> None:
    order_id = f"PIVOT-{unique}"
    run_ = asyncio.create_task(process_order(an_order(order_id, card="0341"), return_state=True))

    async def charged() -> bool:
        return saga.money(order_id)[0] > 0

    await until(charged, 20, "the charge, whose answer does not come")
    assert await ask_to_cancel(order_id, reason="too late for the charge", requested_by="ann") is Asked.ASKED
    assert await ask_to_cancel(order_id, reason="again", requested_by="bob") is Asked.KNOWN
    state = await run_
    assert state.name == "Compensated"
    assert saga.money(order_id) == (PRICE, PRICE)
    assert ended(order_id).reasons == ["cancelled: too late for the charge"]
    assert_undone(saga, order_id)
    assert "was cancelled" in saga.mail(order_id, "refund")
    saga.assert_books_balance()


async def test_one_that_has_shipped_in_its_workers_hand_is_not_completed_but_returned(
    saga: World, unique: str
) -> None:
    """Asked for between the pivot and the outcome."""
    order_id = f"BETWEEN-{unique}"
    intake.submit([an_order(order_id)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[order_id])
        for step in ORDER_SAGA:
            await run_step(StepExecution(step, [order]))
        await ask_to_cancel(order_id, reason="changed their mind", requested_by="ann")
        assert await finish([order], ORDER_SAGA) == {}
    assert saga.order(order_id).outcome is None
    await process_pending_orders(consumer_seconds=0)
    assert ended(order_id).reasons == ["returned: changed their mind"]
    assert saga.money(order_id) == (PRICE, PRICE)
    assert_undone(saga, order_id, shipped=True)
    saga.assert_books_balance()


async def test_a_batch_continues_without_cancelled_orders(saga: World, unique: str) -> None:
    orders = [an_order(f"BATCH-{unique}-{i}", product="PROD-004", price="249.00") for i in range(10)]
    intake.submit(orders)
    gone = [order["id"] for order in orders[::3]]
    for order_id in gone:
        await ask_to_cancel(order_id, reason="r", requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    for order in orders:
        if order["id"] in gone:
            assert_undone(saga, order["id"])
            assert saga.ledger(order["id"]) == []
        else:
            assert ended(order["id"]).outcome is Outcome.COMPLETED
    assert saga.stock("PROD-004") == (25 - 6, 0)
    saga.assert_books_balance()


@pytest.mark.parametrize("forget_keys", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_cancelling_and_shipping_at_once(
    saga: World, unique: str, forget_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many orders, each cancelled at some moment while both lanes work on them: either shipped and not
    refunded (and then returned as a whole), or refunded and not shipped."""
    monkeypatch.setenv("BATCH_SIZE", "7")
    settings.cache_clear()
    saga.misbehave(forget_keys=forget_keys, latency_ms=3)
    saga.receive("PROD-001", 900)
    orders = [an_order(f"RACE-{unique}-{i}") for i in range(40)]
    ids = [order["id"] for order in orders]
    intake.submit(orders[:35])
    stages = [
        "check_inventory",
        "process_payment",
        "generate_confirmation",
        "fulfill_order",
        "notify_customer",
    ]
    wanted = {order_id: stages[i % len(stages)] for i, order_id in enumerate(ids[:38])}
    _, _, asked, *_ = await asyncio.gather(
        process_pending_orders(consumer_seconds=0),
        process_pending_orders(consumer_seconds=0),
        _cancel_at_step(wanted),
        *(process_order(order, return_state=True) for order in orders[35:]),
    )
    await housekeeping()
    kinds: Counter[str] = Counter()
    for order_id in ids:
        end, (charged, refunded) = ended(order_id), saga.money(order_id)
        parcels = saga.sql("SELECT returned_at FROM shipment WHERE order_id = :id", id=order_id)
        kind = str(end.outcome) if end.outcome is Outcome.COMPLETED else end.reasons[0].split(":")[0]
        kinds[kind] += 1
        shipped, returned = len(parcels), sum(parcel.returned_at is not None for parcel in parcels)
        expected = {"completed": (1, 0), "cancelled": (0, 0), "returned": (1, 1)}[kind]
        assert (shipped, returned) == expected, order_id
        assert charged - refunded == (PRICE if kind == "completed" else 0), order_id
        assert saga.charges(order_id) <= 1
    assert kinds["completed"] == len(ids) - len(wanted), "those that nobody cancelled"
    assert set(kinds) == {"completed", "cancelled", "returned"}
    assert asked == {"asked": len(wanted)}
    assert saga.stock("PROD-001") == (1000 - kinds["completed"], 0)
    saga.assert_books_balance()


@pytest.mark.slow
async def test_the_request_and_the_pivot_at_the_same_moment(saga: World, unique: str) -> None:
    """The two transactions on the same row, many times: the one that comes second sees the first."""
    rounds = 40
    saga.receive("PROD-001", 900)
    orders = [an_order(f"MOMENT-{unique}-{i}") for i in range(rounds)]
    intake.submit(orders)
    kinds: Counter[str] = Counter()
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            claimed = await claims.claim(tx, ORDERS, mine, most=rounds)
        for step in ORDER_SAGA.steps[:CONFIRMED]:
            await run_step(StepExecution(step, claimed))
        for i, order in enumerate(claimed):
            stopped = await _ship_during_cancellation(order, later=i % 8)
            kinds["cancelled" if stopped else "shipped"] += 1
            assert saga.shipments(order.id) == (0 if stopped else 1)
    await housekeeping()
    for order in claimed:
        assert saga.money(order.id) == (PRICE, PRICE)
        assert_undone(saga, order.id, shipped=saga.shipments(order.id) == 1)
    assert min(kinds["cancelled"], kinds["shipped"]) > 0, "a race that only one can win is none"
    assert saga.stock("PROD-001") == (1000, 0)
    saga.assert_books_balance()


async def _cancel_at_step(wanted: dict[str, str]) -> Counter[str]:
    """Cancels each of the orders once it has begun with its step, or is past it."""
    asked: Counter[str] = Counter()
    left = dict(wanted)

    async def all_asked() -> bool:
        async with transaction() as tx:
            begun = {
                (row.order_id, row.step)
                for row in await tx.execute(text("SELECT order_id, step FROM order_step"))
            }
            over = set(
                (await tx.execute(text("SELECT id FROM customer_order WHERE outcome IS NOT NULL"))).scalars()
            )
        for order_id, step in list(left.items()):
            if order_id in over or (order_id, step) in begun:
                del left[order_id]
                asked[await ask_to_cancel(order_id, reason=step, requested_by="ann")] += 1
        return not left

    await until(all_asked, 120, "all orders to be asked for")
    return asked


async def _ship_during_cancellation(order: OrderInstance, *, later: int) -> bool:
    """Asks so many questions later to the database. Whether the order was stopped."""

    async def ask() -> None:
        for _ in range(later):
            async with transaction() as tx:
                await tx.execute(text("SELECT 1"))
        await ask_to_cancel(order.id, reason="now", requested_by="ann")

    ends = await asyncio.gather(
        run_in_database(StepExecution(ORDER_SAGA["fulfill_order"], [order]), fulfil),
        ask(),
        return_exceptions=True,
    )
    assert ends[1] is None
    assert ends[0] is None or isinstance(ends[0], SagaCancelled)
    return ends[0] is not None


# -- whatever dies


@pytest.mark.parametrize(
    "moment", ["asked", "claimed", "remembered", "returned", "refunded", "all but the outcome"]
)
@pytest.mark.short_form("refunded")
async def test_a_worker_that_dies_in_the_middle_of_a_return(saga: World, unique: str, moment: str) -> None:
    """Another worker continues from the journal, with a gateway that has forgotten its keys."""
    order_id = f"DIES-{unique}"
    await process_order(an_order(order_id), return_state=True)
    saga.misbehave(forget_keys=True)
    await ask_to_cancel(order_id, reason="changed their mind", requested_by="ann")
    moments = ["asked", "claimed", "remembered", "returned", "refunded", "all but the outcome"]
    far = moments.index(moment)
    if far >= 1:
        saga.sql(
            "INSERT INTO lease (id, holder, until) VALUES (:id, 'dies', now() + interval '1 hour')", id=DEAD
        )
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, UUID(DEAD), most=1, ids=[order_id])
        assert order.cancel_reason == "changed their mind"
        order.fail("cancel_order", SagaReturned(order.cancel_reason))
    if far >= 2:
        await record_failures([order], pivot=ORDER_SAGA.pivot)
    for name in ["fulfill_order", "process_payment", "check_inventory"][: max(0, far - 2)]:
        await compensate_step(ORDER_SAGA[name], [order])
    saga.sql("UPDATE lease SET until = now() - interval '1 second'")

    await housekeeping()

    assert ended(order_id).reasons == ["returned: changed their mind"]
    assert saga.money(order_id) == (PRICE, PRICE)
    assert [len(payment["refunds"]) for payment in saga.ledger(order_id)] == [1]
    assert saga.stock("PROD-001") == (100, 0)
    assert_undone(saga, order_id, shipped=True)
    assert "refund" in saga.mail_kinds(order_id)
    saga.assert_books_balance()


async def test_a_paused_worker_that_wakes_up_during_a_return_writes_nothing(saga: World, unique: str) -> None:
    order_id = f"PAUSED-{unique}"
    await process_order(an_order(order_id), return_state=True)
    await ask_to_cancel(order_id, reason="r", requested_by="ann")
    saga.sql(
        "INSERT INTO lease (id, holder, until) VALUES (:id, 'paused', now() - interval '1 second')", id=DEAD
    )
    async with transaction() as tx:
        (order,) = await claims.claim(tx, ORDERS, UUID(DEAD), most=1, ids=[order_id])
    order.fail("cancel_order", SagaReturned("r"))
    await housekeeping()
    before = saga.journal(order_id)
    await record_failures([order], pivot=ORDER_SAGA.pivot)
    assert order.lost
    assert await finish([order], ORDER_SAGA) == {}
    assert saga.journal(order_id) == before
    assert saga.stock("PROD-001") == (100, 0)
    assert_undone(saga, order_id, shipped=True)


# -- from Python


async def test_from_python_with_the_database_only(saga: World, unique: str) -> None:
    order_id = f"PYTHON-{unique}"
    await process_order(an_order(order_id), return_state=True)
    assert preview_from_python(order_id).refund == PRICE
    seen = cancel_from_python(order_id, reason="r", requested_by="ann", confirmed=False)
    assert isinstance(seen, CancelPreview)
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:
        done = await asyncio.to_thread(
            cancel_from_python, order_id, reason="r", requested_by="ann", confirmed=True, timeout=60
        )
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    assert isinstance(done, OrderOutcome)
    assert done.outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    saga.assert_books_balance()
