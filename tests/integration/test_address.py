"""The address of an order changes before it is shipped, or not at all. Checked against the labels: the one
that is drawn, and the one that the carrier outside has sold."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import claims
from saga.database import transaction
from saga.execution import StepExecution
from saga.finish import postpone
from saga.lease import lease
from saga.prefect.steps import run_step
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.retention.customers import erase_customers
from shop.review.address import AddressReceipt, change_address
from shop.review.cancel import ask_to_cancel
from shop.review.errors import AddressInvalid, AddressSettled, OrderHeld, OrderUnknown, ReviewError
from shop.settings import settings
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.content import Parcel
from shop.shipping.labels.stored import find_label
from tests.easypost_server import EasyPost
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order

NEW = {
    "name": "Ann Lee",
    "address": "7 New Street",
    "city": "Boston",
    "state": "MA",
    "zip": "02101",
    "country": "US",
}
STEPS = [step.name for step in ORDER_SAGA]


async def change(order_id: str, address: Any = NEW, **more: Any) -> AddressReceipt:
    return await change_address(order_id, address, changed_by="ann", started_by="a test", **more)


async def begun(order_id: str, last: str) -> None:
    """A worker has run the steps up to this one, and has released the order."""
    intake.submit([an_order(order_id)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[order_id])
        for step in ORDER_SAGA.steps[: STEPS.index(last) + 1]:
            await run_step(StepExecution(step, [order]))
        await postpone([order], seconds=0)


async def recipient(order_id: str) -> tuple[str, ...]:
    content = (await find_label(order_id)).content
    assert isinstance(content, Parcel)
    return content.recipient


@pytest.mark.parametrize("last", [None, "check_inventory", "process_payment", "generate_confirmation"])
async def test_what_is_not_shipped_yet_goes_to_the_new_address(
    saga: World, unique: str, last: str | None
) -> None:
    if last is None:
        intake.submit([an_order(unique)])
    else:
        await begun(unique, last)
    assert (await change(unique)).status == "changed"
    assert (await change(unique)).status == "unchanged"
    assert intake.submit([an_order(unique)])[0].status == "known", "the same order again is the same order"
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unique).outcome == Outcome.COMPLETED
    assert "7 New Street" in await recipient(unique)
    mail = saga.mail(unique, "confirmation")
    assert "7 New Street" in mail
    assert "123 Main St" not in mail
    assert saga.charges(unique) == 1
    ((action, by, started_by, former),) = saga.sql(
        'SELECT action, "by", started_by, old_address FROM desk_entry'
    )
    assert (action, by, started_by) == ("change_address", "ann", "a test")
    assert former["address"] == "123 Main St"
    saga.assert_books_balance()

    saga.sql("UPDATE customer_order SET finished_at = finished_at - interval '9 days'")
    saga.sql("UPDATE outbox SET sent_at = now() WHERE sent_at IS NULL")
    assert await asyncio.to_thread(erase_customers, 8) == 1
    assert saga.sql('SELECT "by", old_address FROM desk_entry') == [("erased", None)]
    assert "New Street" not in json.dumps(saga.order(unique).content)


async def test_what_is_settled_keeps_its_address(saga: World, unique: str) -> None:
    shipped, done, cancelled = (f"{kind}-{unique}" for kind in ("SHIPPED", "DONE", "CANCELLED"))
    await begun(shipped, "fulfill_order")
    await process_order(an_order(done), return_state=True)
    intake.submit([an_order(cancelled)])
    await ask_to_cancel(cancelled, reason="r", requested_by="ann")
    before = {order_id: saga.order(order_id).content for order_id in (shipped, done, cancelled)}
    for order_id in before:
        with pytest.raises(AddressSettled):
            await change(order_id)
    with pytest.raises(OrderUnknown):
        await change("nobody")
    assert {order_id: saga.order(order_id).content for order_id in before} == before
    assert "123 Main St" in await recipient(shipped)


@pytest.mark.parametrize("alive", [True, False])
async def test_a_worker_that_holds_it_is_not_disturbed(saga: World, unique: str, alive: bool) -> None:
    """Also one that has stopped: it might continue with what it has read."""
    intake.submit([an_order(unique)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[unique])
        if not alive:
            saga.sql("UPDATE lease SET until = now() - interval '1 minute'")
        with pytest.raises(OrderHeld):
            await change(unique, wait_seconds=0.5)
        waiting = asyncio.create_task(change(unique, wait_seconds=20))
        await asyncio.sleep(0.1)
        await postpone([order], seconds=0)
        assert (await waiting).status == "changed"


async def test_every_problem_is_named_and_nothing_changes(saga: World, unique: str) -> None:
    intake.submit([an_order(unique)])
    for address, places in (
        ({**NEW, "country": "Austria"}, {"shipping_info.country"}),
        ({**NEW, "address": "", "city": ""}, {"shipping_info.address", "shipping_info.city"}),
        ({**NEW, "city": "x" * 201}, {"shipping_info.city"}),
        ({**NEW, "colour": "red"}, {"shipping_info.colour"}),
        ({"name": "Ann"}, {"shipping_info.address", "shipping_info.city", "shipping_info.country"}),
        ("7 New Street", {"shipping_info"}),
    ):
        with pytest.raises(AddressInvalid) as invalid:
            await change(unique, address)
        assert {each.place for each in invalid.value.problems} == places
    with pytest.raises(AddressInvalid) as invalid:
        await change_address(unique, {**NEW, "country": "X"}, changed_by=" ")
    assert {each.place for each in invalid.value.problems} == {"changed_by", "shipping_info.country"}
    assert saga.order(unique).content["shipping_info"]["address"] == "123 Main St"
    assert saga.sql("SELECT count(*) FROM desk_entry") == [(0,)]


@pytest.fixture
async def outside(
    saga: World, easypost_server: EasyPost, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    for name, value in easypost_server.settings.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield saga
    await close_carriers()
    easypost_server.behave()


async def test_no_label_has_another_address_than_its_order(
    outside: World, easypost_server: EasyPost, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses change at any moment, while workers work."""
    monkeypatch.setenv("BATCH_SIZE", "3")
    settings.cache_clear()
    dice = random.Random(7)
    ids = [f"{unique}-{number}" for number in range(24)]
    results: Counter[str] = Counter()

    async def changing(order_id: str, number: int) -> None:
        await asyncio.sleep(dice.uniform(0, 1.5))
        try:
            await change(order_id, {**NEW, "address": f"{number} New Street"}, wait_seconds=0.5)
        except ReviewError as error:
            results[type(error).__name__] += 1
        else:
            results["changed"] += 1

    intake.submit([an_order(order_id) for order_id in ids])
    await change(ids[0], {**NEW, "address": "first"})
    await asyncio.gather(
        *(changing(order_id, number) for number, order_id in enumerate(ids[1:], 1)),
        *(process_pending_orders(consumer_seconds=0) for _ in range(2)),
    )
    await process_pending_orders(consumer_seconds=0)
    for order_id in ids:
        assert outside.order(order_id).outcome == Outcome.COMPLETED
        (sold,) = [each for each in easypost_server.shipments(order_id) if each["postage_label"]]
        assert sold["to_address"]["street1"] == outside.order(order_id).content["shipping_info"]["address"]
    assert sum(results.values()) == len(ids) - 1
    assert outside.order(ids[0]).content["shipping_info"]["address"] == "first"


@pytest.fixture
def web(saga: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


def test_over_http(saga: World, web: httpx.Client, unique: str) -> None:
    intake.submit([an_order(unique), an_order(f"{unique}-done")])
    path, body = f"/orders/{unique}/shipping-address", {"shipping_info": NEW, "changed_by": "ann"}
    assert [web.put(path, json=body).raise_for_status().json()["status"] for _ in range(2)] == [
        "changed",
        "unchanged",
    ]
    assert saga.order(unique).content["shipping_info"]["address"] == "7 New Street"
    wrong = {"shipping_info": {**NEW, "country": "X"}, "changed_by": "ann"}
    details = problem(web.put(path, json=wrong), 422)
    assert [each["pointer"] for each in details["errors"]] == ["#/shipping_info/country"]
    problem(web.put(path, json={"shipping_info": NEW}), 422)
    problem(web.put("/orders/nobody/shipping-address", json=body), 404)
    saga.sql(
        "UPDATE customer_order SET outcome = 'completed', status = 'completed', finished_at = now() "
        "WHERE id = :id",
        id=f"{unique}-done",
    )
    details = problem(web.put(f"/orders/{unique}-done/shipping-address", json=body), 409)
    assert details["type"].endswith(":address-settled")


def test_on_the_command_line(
    saga: World, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intake.submit([an_order(unique)])
    file = tmp_path / "address.json"
    file.write_text(json.dumps(NEW))

    def run(*arguments: str) -> int:
        return order_saga(["address", *arguments, "--timeout", "0"])

    assert run(unique, "--city", "Salem", "--by", "ann") == 0
    there = saga.order(unique).content["shipping_info"]
    assert (there["city"], there["address"]) == ("Salem", "123 Main St")
    assert run(unique, str(file), "--by", "ann") == 0
    assert saga.order(unique).content["shipping_info"]["address"] == "7 New Street"
    assert run(unique, "--by", "ann") == 2
    assert run(unique, "--country", "X", "--by", "ann") == 2
    assert run(unique, "--city", "Salem") == 2
    assert run("nobody", "--city", "Salem", "--by", "ann") == 1
