"""Workers of two versions side by side:
an order with a step that one of them does not know is left to the other, and ends right there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from flows.housekeeping import housekeeping
from flows.order_saga import ORDER_SAGA
from flows.process_pending_orders import process_pending_orders
from saga.definition import Kind, Saga, Step
from saga.prefect.steps import external_compensation, external_step
from shop.inventory.errors import InventoryUnavailable
from shop.orders import intake, report
from shop.orders.order import OrderInstance
from shop.orders.outcomes import Outcome
from tests.integration.world import World, an_order

CHECK, PRODUCT, PRICE = "check_fraud", "PROD-004", Decimal(249)
DEAD = "00000000-0000-0000-0000-00000000000d"


class Checks:
    """A step more, as the newer version has it: what it was asked, and whether it makes its orders wait."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.cleared: list[str] = []
        self.waits = self.clearing_waits = False
        checks = self

        @external_step()
        async def check_fraud(order: OrderInstance) -> dict[str, Any]:
            """Asks whether the customer is known for fraud."""
            if checks.waits:
                raise InventoryUnavailable("the check is away", retry_after=0.01)
            checks.checked.append(order.id)
            return {"checked": True}

        @external_compensation()
        async def clear_fraud_check(order: OrderInstance) -> dict[str, Any]:
            """Says that the order is no more."""
            if checks.clearing_waits:
                raise InventoryUnavailable("the check is away", retry_after=0.01)
            checks.cleared.append(order.id)
            return {"compensation_status": "success"}

        validate, reserve, pay, *others = ORDER_SAGA.steps
        more = Step(check_fraud, clear_fraud_check, Kind.COMPENSATABLE, 20, 0, 0, name=CHECK)
        self.saga = Saga(validate, reserve, pay, more, *others)

    @contextmanager
    def known(self) -> Iterator[None]:
        """This process is a worker of the newer version."""
        with pytest.MonkeyPatch.context() as patch:
            for name, module in list(sys.modules.items()):
                if name.startswith("flows.") and getattr(module, "ORDER_SAGA", None) is ORDER_SAGA:
                    patch.setattr(module, "ORDER_SAGA", self.saga)
            yield


async def consumer() -> None:
    await process_pending_orders(consumer_seconds=0)


def facts(world: World, order_id: str) -> Any:
    """Everything that an order is about: its row,
    but for who had a look at it, its journal, its stock and its money."""
    columns = "outcome, failing_step, failure, takeovers, flow_run_id, reasons, undone"
    row = world.sql(f"SELECT {columns} FROM customer_order WHERE id = :id", id=order_id)
    steps = world.sql("SELECT * FROM order_step WHERE order_id = :id ORDER BY number", id=order_id)
    return row, steps, world.money(order_id), world.shipments(order_id), world.mail_kinds(order_id)


@pytest.mark.parametrize("left", ["postponed", "with a dead worker", "to be cancelled"])
async def test_an_order_of_a_newer_version_waits_for_its_worker_and_resumes_there(
    saga: World, unique: str, caplog: pytest.LogCaptureFixture, left: str
) -> None:
    checks, order, other = (
        Checks(),
        an_order(f"NEW-{unique}", product=PRODUCT, price="249.00"),
        an_order(f"OLD-{unique}"),
    )
    order_id = str(order["id"])
    before = saga.stock(PRODUCT)
    intake.submit([order])
    checks.waits = True
    with checks.known():
        await consumer()
    assert saga.journal(order_id)[CHECK].status in {"begun", "failed"}
    saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=order_id)
    if left == "with a dead worker":
        saga.sql("UPDATE customer_order SET lease_id = :dead WHERE id = :id", id=order_id, dead=DEAD)
    if left == "to be cancelled":
        saga.sql(
            "UPDATE customer_order SET cancel_requested_at = now(), "
            "cancel_reason = 'not wanted' WHERE id = :id",
            id=order_id,
        )
    intake.submit([other])
    with caplog.at_level(logging.WARNING, logger="saga.journal"):
        await consumer()
    assert f"instance {order_id} is left to another worker" in caplog.text
    assert CHECK in caplog.text
    assert report.read([str(other["id"])])[str(other["id"])].outcome is Outcome.COMPLETED, (
        "one that it knows is not held up"
    )
    left_so = facts(saga, order_id)
    for _ in range(3):
        await consumer()
        await housekeeping()
    assert facts(saga, order_id) == left_so
    row = saga.order(order_id)
    assert (row.outcome, row.failure, row.waits_for) == (None, None, "unknown_step")
    assert row.takeovers == (1 if left == "with a dead worker" else 0)
    assert saga.money(order_id) == (PRICE, 0)
    checks.waits = False
    with checks.known():
        await consumer()
    row = saga.order(order_id)
    if left == "to be cancelled":
        assert (row.outcome, saga.money(order_id), saga.stock(PRODUCT)) == (
            "compensated",
            (PRICE, PRICE),
            before,
        )
        assert (checks.checked, checks.cleared, saga.shipments(order_id)) == ([], [order_id], 0)
    else:
        assert (row.outcome, saga.money(order_id), saga.stock(PRODUCT)) == (
            "completed",
            (PRICE, 0),
            (before[0] - 1, 0),
        )
        assert (checks.checked, checks.cleared, saga.shipments(order_id)) == ([order_id], [], 1)
    assert saga.charges(order_id) == 1
    assert row.waits_for is None
    saga.assert_books_balance()


async def test_an_order_that_a_newer_version_undoes_is_undone_there(saga: World, unique: str) -> None:
    """The compensation of the step that the older one does not know is still due: it must not be left out."""
    checks, order = Checks(), an_order(f"UNDO-{unique}", product=PRODUCT, price="249.00", country="AQ")
    order_id = str(order["id"])
    before = saga.stock(PRODUCT)
    intake.submit([order])
    checks.clearing_waits = True
    with checks.known():
        await consumer()
    saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=order_id)
    assert saga.journal(order_id)[CHECK].undo_due
    steps = facts(saga, order_id)
    for _ in range(3):
        await consumer()
        await housekeeping()
    assert facts(saga, order_id) == steps
    assert saga.order(order_id).outcome is None
    checks.clearing_waits = False
    with checks.known():
        await consumer()
    assert saga.order(order_id).outcome == "compensated"
    assert (checks.checked, checks.cleared) == ([order_id], [order_id])
    assert (saga.money(order_id), saga.stock(PRODUCT)) == ((PRICE, PRICE), before)
    saga.assert_books_balance()


async def test_a_crowd_of_orders_of_a_newer_version_does_not_hide_those_behind_it(
    saga: World, unique: str
) -> None:
    checks = Checks()
    crowd = [an_order(f"NEW-{unique}-{number}", product=PRODUCT, price="249.00") for number in range(6)]
    intake.submit(crowd)
    checks.waits = True
    with checks.known():
        await consumer()
    saga.sql("UPDATE customer_order SET not_before = NULL")
    own = an_order(f"OLD-{unique}")
    intake.submit([own])
    await process_pending_orders(consumer_seconds=0, batch_size=2)
    assert saga.order(str(own["id"])).outcome == "completed"
    assert {row.outcome for row in saga.sql("SELECT outcome FROM customer_order WHERE id LIKE 'NEW%'")} == {
        None
    }
