"""`process_order` as a flow: states, names, repeats, bad input, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import State, StateType

from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.errors import OrderConflict, UnusableOrder
from shop.orders.outcomes import Outcome
from shop.payments.gateways import close_gateway, gateway
from shop.payments.sandbox.behaviour import Fault, Move
from shop.review.cancel import withdraw
from tests.integration.world import World, an_order
from tests.waiting import until


@pytest.mark.parametrize(
    ("fields", "name", "kind"),
    [
        ({}, "Completed", StateType.COMPLETED),
        ({"items": []}, "Rejected", StateType.COMPLETED),
        ({"product": "OUT-OF-STOCK"}, "OutOfStock", StateType.COMPLETED),
        ({"card": "0000"}, "Compensated", StateType.COMPLETED),
        ({"card": "0259", "country": "AQ"}, "NeedsAttention", StateType.FAILED),
    ],
)
@pytest.mark.usefixtures("prefect_api")
async def test_outcomes_are_named_states(
    saga: World, unique: str, fields: dict[str, Any], name: str, kind: StateType
) -> None:
    state = await process_order(an_order(f"STATE-{unique}", **fields), return_state=True)
    assert (state.name, state.type) == (name, kind)
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
        assert run.name == f"order STATE-{unique}"
        assert run.state is not None
        assert run.state.name == name


@pytest.mark.usefixtures("prefect_api")
async def test_every_step_and_every_undo_is_a_task_run(saga: World, unique: str) -> None:
    state = await process_order(an_order(f"RUNS-{unique}", country="AQ"), return_state=True)
    wanted = [
        *(step.name for step in ORDER_SAGA.steps if not ORDER_SAGA.is_past_pivot(step.name)),
        "refund_payment",
        "release_inventory",
        "deliver_outbox",
    ]
    async with get_client() as client:

        async def names() -> list[str]:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            runs = await client.read_task_runs(flow_run_filter=mine)
            return [run.name for run in sorted(runs, key=lambda run: run.start_time or run.created)]

        async def all_there() -> bool:
            return [f"{step} RUNS-{unique}" for step in wanted] == [
                name for name in await names() if "RUNS" in name
            ]

        await until(all_there, 20, "the task runs in the API")


async def test_the_same_order_again_does_nothing(saga: World, unique: str) -> None:
    order = an_order(f"AGAIN-{unique}")
    first = await (await process_order(order, return_state=True)).aresult()
    second = await (await process_order(order, return_state=True)).aresult()
    assert second == first
    assert saga.charges(order["id"]) == 1
    assert saga.stock("PROD-001") == (99, 0)
    assert saga.shipments(order["id"]) == 1


async def test_the_same_id_with_other_content_is_an_error(saga: World, unique: str) -> None:
    await process_order(an_order(f"OTHER-{unique}"), return_state=True)
    with pytest.raises(OrderConflict):
        await process_order(an_order(f"OTHER-{unique}", price="1.00"))
    assert saga.money(f"OTHER-{unique}") == (Decimal("999.99"), 0)


@pytest.mark.parametrize("bad", [None, [], "x", {}, {"id": ""}, {"id": ["a"]}, {"id": "a\nb"}])
async def test_without_a_usable_id_the_caller_gets_an_error(saga: World, bad: Any) -> None:
    state = await process_order(bad, return_state=True)
    assert state.type is StateType.FAILED, "not crashed"
    with pytest.raises(UnusableOrder):
        await state.aresult()
    assert "4111" not in str(state.message)


@pytest.mark.parametrize(
    "bad",
    [
        {"items": "many"},
        {"items": [None, 5, {"product_id": {"a": 1}}], "total_amount": "1e999999"},
        {"total_amount": 10**400},
        {"customer_id": None, "currency": "💶", "shipping_info": "here"},
        {"notes": {"a": [[[[[[[[[["deep"]]]]]]]]]]}},
        {"payment_info": {"method": "credit_card", "card_number": "4242424242424242", "cvc": "123"}},
    ],
)
async def test_bad_input_is_rejected_with_its_reasons(saga: World, unique: str, bad: dict[str, Any]) -> None:
    state = await process_order({**an_order(f"BAD-{unique}"), **bad}, return_state=True)
    assert state.name == "Rejected"
    known = await state.aresult()
    assert known.reasons
    assert known.undone == []
    assert saga.ledger(f"BAD-{unique}") == []
    assert saga.stock("PROD-001") == (100, 0)
    everything = str(saga.sql("SELECT to_jsonb(o) FROM customer_order o")) + str(
        saga.sql("SELECT to_jsonb(s) FROM order_step s")
    )
    assert "4242424242424242" not in everything


@pytest.mark.parametrize("missing", ["payment_info", "shipping_info"])
async def test_what_cannot_be_shipped_or_paid_is_not_charged(saga: World, unique: str, missing: str) -> None:
    order = an_order(f"MISSING-{unique}")
    del order[missing]
    known = await (await process_order(order, return_state=True)).aresult()
    assert (known.outcome, known.failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert saga.ledger(order["id"]) == [], "nothing reached the gateway"
    assert saga.stock("PROD-001") == (100, 0)


async def test_both_lanes_on_the_same_order_charge_once(saga: World, unique: str) -> None:
    order = an_order(f"LANES-{unique}", card="0119")
    states = await asyncio.gather(*(process_order(order, return_state=True) for _ in range(3)))
    assert {state.name for state in states} == {"Completed"}
    assert saga.charges(order["id"]) == 1
    assert saga.shipments(order["id"]) == 1
    assert saga.stock("PROD-001") == (99, 0)


async def stop_while_charging(
    saga: World, order: dict[str, Any], meanwhile: Callable[[str], Awaitable[None]] | None = None
) -> None:
    """Cancellation and SIGTERM arrive as CancelledError;
    here while the gateway holds back its answer to a charge that it made."""
    run = asyncio.create_task(process_order(order, return_state=True))

    async def charged() -> bool:
        return saga.money(order["id"])[0] > 0

    await until(charged, 20, "the charge")
    if meanwhile is not None:
        await meanwhile(saga.order(order["id"]).flow_run_id)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


@pytest.mark.parametrize("by", ["its caller", "Prefect"])
@pytest.mark.usefixtures("prefect_api")
async def test_a_cancelled_run_is_undone(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    order = an_order(f"CANCEL-{unique}", card="0341")

    async def cancelled_in_the_ui(run_id: str) -> None:
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run_id)  # as in a process that a worker started
        async with get_client() as client:
            await client.set_flow_run_state(UUID(run_id), State(type=StateType.CANCELLING))

    await stop_while_charging(saga, order, cancelled_in_the_ui if by == "Prefect" else None)

    known = report.read([order["id"]])[order["id"]]
    assert (known.outcome, known.failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert saga.money(order["id"]) == (Decimal("999.99"), Decimal("999.99")), "what was charged is back"
    assert saga.stock("PROD-001") == (100, 0)
    saga.assert_books_balance()


async def start_and_wait_for_the_gateway(saga: World, order: dict[str, Any]) -> asyncio.Task[Any]:
    """Its run while the gateway is unavailable: reserved, postponed, not claimed."""
    saga.misbehave(
        faults=[{"order_id": order["id"], "fault": Fault.RESET_BEFORE, "move": move} for move in Move]
    )
    run = asyncio.create_task(process_order(order, return_state=True))

    async def postpone() -> bool:
        return bool(
            saga.sql(
                "SELECT 1 FROM customer_order WHERE waits_for IS NOT NULL AND lease_id IS NULL AND id = :id",
                id=order["id"],
            )
        )

    await until(postpone, 40, "the order to be postponed")
    assert saga.stock("PROD-001") == (100, 1)
    return run


@pytest.mark.parametrize("meanwhile", ["nobody has it", "a consumer has it"])
@pytest.mark.short_form("nobody")
async def test_a_run_that_is_cancelled_while_its_order_waits_withdraws_it(
    saga: World, unique: str, meanwhile: str
) -> None:
    order = an_order(f"WAITS-{unique}")
    order_id, lease_id = order["id"], "00000000-0000-0000-0000-000000000001"
    run = await start_and_wait_for_the_gateway(saga, order)
    if meanwhile == "a consumer has it":
        saga.sql(
            "INSERT INTO lease (id, holder, until) VALUES (:id, 'consumer', now() + interval '1 hour')",
            id=lease_id,
        )
        saga.sql(
            "UPDATE customer_order SET lease_id = :lease, flow_run_id = 'consumer' WHERE id = :id",
            id=order_id,
            lease=lease_id,
        )
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    left = saga.order(order_id)
    assert (left.outcome, left.cancel_requested_by, left.cancel_reason) == (
        None,
        "whoever cancelled the run",
        "its run was cancelled",
    )
    if meanwhile == "a consumer has it":
        assert str(left.lease_id) == lease_id
        saga.sql("UPDATE lease SET until = now() - interval '1 second'")
    else:
        assert left.failure is not None, "its undoing has begun, at once"

    saga.misbehave(faults=[])
    await close_gateway()  # and with it the circuit, which is open
    saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=order_id)
    await process_pending_orders(consumer_seconds=0)
    assert report.read([order_id])[order_id].outcome is Outcome.COMPENSATED
    assert saga.charges(order_id) == 0
    assert saga.stock("PROD-001") == (100, 0)
    saga.assert_books_balance()


@pytest.mark.slow
async def test_a_run_that_only_waits_for_another_ones_order_withdraws_nothing(
    saga: World, unique: str
) -> None:
    order = an_order(f"THEIRS-{unique}")
    theirs = await start_and_wait_for_the_gateway(saga, order)
    saga.sql(
        "UPDATE customer_order SET not_before = now() + interval '1 hour' WHERE id = :id", id=order["id"]
    )
    begun = len(saga.sql("SELECT 1 FROM lease WHERE until > now()"))
    again = asyncio.create_task(process_order(order, return_state=True))

    async def waits() -> bool:
        return len(saga.sql("SELECT 1 FROM lease WHERE until > now()")) > begun

    await until(waits, 20, "the other run")
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert saga.order(order["id"]).cancel_requested_at is None
    saga.misbehave(faults=[])
    await close_gateway()
    saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=order["id"])
    assert (await theirs).name == "Completed"
    assert saga.charges(order["id"]) == 1
    assert saga.stock("PROD-001") == (99, 0)


async def test_an_order_whose_run_is_cancelled_during_shipping_goes_forward(saga: World, unique: str) -> None:
    """What is shipped is not sent back because somebody cancels a run."""
    order = an_order(f"GONE-{unique}")
    await process_order(order, return_state=True)
    run_id = saga.order(order["id"]).flow_run_id
    for shipped in ("outcome = 'completed'", "outcome = NULL, status = 'shipped', finished_at = NULL"):
        saga.sql(f"UPDATE customer_order SET {shipped}")
        assert (
            await withdraw(
                order_id=order["id"], flow_run_id=run_id, reason="its run was cancelled", requested_by="ann"
            )
            == []
        )
    assert saga.order(order["id"]).cancel_requested_at is None
    assert saga.sql("SELECT 1 FROM desk_entry") == []


@pytest.mark.parametrize("server", ["answers", "is away"])
async def test_a_run_whose_worker_is_stopped_leaves_its_order_as_it_is(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """It is released, not compensated: the next worker finds the charge and continues."""
    order = an_order(f"LEFT-{unique}", card="0341")

    async def terminate(run_id: str) -> None:
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run_id)
        if server == "is away":
            monkeypatch.setattr("flows.order_run.get_client", _unreachable)

    await stop_while_charging(saga, order, terminate)
    left = saga.order(order["id"])
    assert (left.outcome, left.lease_id, left.failing_step) == (None, None, None)
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID")

    known = await (await process_order(order, return_state=True)).aresult()
    assert (known.outcome, known.takeovers) == (Outcome.COMPLETED, 0)
    assert saga.charges(order["id"]) == 1
    saga.assert_books_balance()


def _unreachable() -> Any:
    raise ConnectionError("nobody answers")


async def test_an_order_that_a_dead_worker_left_is_taken_over(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies after the charge was made and before it was journalled:
    the next one finds it by order id."""
    order = an_order(f"DEAD-{unique}")
    intake.submit([order])
    made = await gateway().create(
        order_id=order["id"],
        amount=Decimal("999.99"),
        currency="USD",
        method="credit_card",
        card_last4="1234",
        token=None,
        key="lost",
    )
    await gateway().confirm(made.id, key="lost-too")
    saga.sql(
        "INSERT INTO lease (id, holder, until) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'dead', now() - interval '1 second')"
    )
    saga.sql(
        "UPDATE customer_order SET fence = 1, "
        "lease_id = '00000000-0000-0000-0000-000000000001', started_at = now() WHERE id = :id",
        id=order["id"],
    )
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, undo_due) "
        "VALUES (:id, 'process_payment', 'begun', true)",
        id=order["id"],
    )

    known = await (await process_order(order, return_state=True)).aresult()

    assert (known.outcome, known.takeovers) == (Outcome.COMPLETED, 1)
    assert saga.charges(order["id"]) == 1
    assert saga.stock("PROD-001") == (99, 0)
