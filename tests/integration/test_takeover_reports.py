"""A run that continues an order of another run reports it,
in its log and in its artifact: which order, from which step, and why."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from uuid import UUID

import pytest

from flows.housekeeping import housekeeping
from flows.order_saga import ORDER_SAGA
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel_sync
from tests.integration.artifacts import artifacts
from tests.integration.test_log_lines_of_runs import shown_in_the_ui
from tests.integration.test_process_order import stop_while_charging
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")
DONE = list(takewhile(lambda name: name != "process_payment", (step.name for step in ORDER_SAGA)))
"""What is done when an order is being charged."""
DEAD = UUID(int=11)


@dataclass(frozen=True)
class Left:
    """How an order came to be left in the middle of its charge, and what is to be said of it."""

    name: str
    why: str
    then: str = "it continues"
    lease_over: bool = False
    cancelled: bool = False
    takeovers: int = 0
    """How often its lease expired before, which is unrelated to why it is released now."""


LEFT = [
    Left("its lease ran out", "its worker's lease expired", lease_over=True),
    Left("it was handed back", "its worker released it"),
    Left("it was handed back, and had been taken over once", "its worker released it", takeovers=1),
    Left("it is to be cancelled", "it has a cancel request", cancelled=True),
    Left(
        "it is to be cancelled, and its lease ran out",
        "it has a cancel request",
        lease_over=True,
        cancelled=True,
    ),
]


async def leave(saga: World, order_id: str, left: Left, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """Terminates its run while it is being charged. Returns which run that was."""

    async def terminate(run_id: str) -> None:
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run_id)

    await stop_while_charging(saga, an_order(order_id, card="0341"), terminate)
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID")
    if left.lease_over:
        saga.sql(
            "INSERT INTO lease (id, holder, until) VALUES (:id, 'dead', now() - interval '1 second')", id=DEAD
        )
        saga.sql("UPDATE customer_order SET lease_id = :lease WHERE id = :id", lease=DEAD, id=order_id)
    if left.cancelled:
        await asyncio.to_thread(ask_to_cancel_sync, order_id, reason="bought twice", requested_by="ann")
    saga.sql("UPDATE customer_order SET takeovers = :n WHERE id = :id", n=left.takeovers, id=order_id)
    return UUID(saga.order(order_id).flow_run_id)


@pytest.mark.parametrize("left", LEFT, ids=lambda left: left.name)
@pytest.mark.usefixtures("prefect_api")
async def test_a_takeover_reports_order_step_and_reason(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, left: Left
) -> None:
    order_id = f"TAKEN-{unique}"
    before = await leave(saga, order_id, left, monkeypatch)
    assert set(saga.journal(order_id)) == {*DONE, "process_payment"}

    state = await housekeeping(return_state=True)

    assert (await state.aresult())["recovered"] == 1
    me = state.state_details.flow_run_id
    so_far = f"done so far: {', '.join(DONE)}"
    shown = await shown_in_the_ui(me, f"recovering order {order_id}")
    assert shown == f"recovering order {order_id} ({left.why}): {so_far}; {left.then}"
    (table,) = await artifacts("recovered-orders", me)
    (row,) = [line for line in str(table.data).splitlines() if order_id in line]
    assert row == (
        f"| {order_id} | [the run before](../../runs/flow-run/{before}) "
        f"| {left.why} | {so_far} | {left.then} |"
    )
    links = [str(link.data) for link in await artifacts("recovered-by", before)]
    assert len(links) == left.lease_over, "the run before is told who went on only if it had lost the order"
    assert all(f"](../../runs/flow-run/{me}) recovered {order_id}" in link for link in links)

    assert saga.order(order_id).outcome == (Outcome.COMPENSATED if left.cancelled else Outcome.COMPLETED)
    assert saga.order(order_id).takeovers == left.takeovers + left.lease_over
    assert saga.charges(order_id) == 1
    assert saga.money(order_id) == (PRICE, PRICE if left.cancelled else 0)
    assert saga.stock("PROD-001") == ((100, 0) if left.cancelled else (99, 0))
    saga.assert_books_balance()
