"""The triggers: from Python and from the shell."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from deployments import trigger
from deployments.cli import order_saga
from deployments.trigger import run_order, submit_orders
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders.errors import OrderConflict, UnusableOrder
from shop.orders.outcomes import Outcome
from tests.integration.world import World, an_order


async def test_submitting_needs_no_prefect_server(
    world: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    receipts = submit_orders(
        [an_order(f"DOWN-{unique}"), an_order(f"DOWN-{unique}"), {"customer_id": "no id"}]
    )
    assert [receipt.status for receipt in receipts] == ["accepted", "known", "refused"]
    assert world.sql("SELECT count(*) FROM customer_order")[0][0] == 1


async def test_run_order_reports_what_is_wrong(world: World, unique: str) -> None:
    submit_orders([an_order(f"WRONG-{unique}")])
    with pytest.raises(OrderConflict):
        run_order(an_order(f"WRONG-{unique}", price="1.00"))
    with pytest.raises(OrderConflict):
        run_order(an_order(f"WRONG-{unique}", price="1.00"), own_run=True)
    with pytest.raises(UnusableOrder):
        run_order({"customer_id": "no id"})


async def test_the_command_shows_how_orders_ended(
    saga: World, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "orders.ndjson"
    orders = [an_order(f"CLI-{unique}-A"), an_order(f"CLI-{unique}-B", card="0000"), {"no": "id"}]
    file.write_text("\n".join(json.dumps(order) for order in orders))
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=60))
    try:
        assert await asyncio.to_thread(order_saga, ["submit", str(file), "--json", "--timeout", "60"]) == 1, (
            "one was refused"
        )
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    ended = {
        line["order_id"]: line
        for line in map(
            json.loads, filter(lambda line: line.startswith("{"), capsys.readouterr().out.splitlines())
        )
    }
    assert ended[f"CLI-{unique}-A"]["outcome"] == Outcome.COMPLETED
    assert (ended[f"CLI-{unique}-A"]["amount_charged"], ended[f"CLI-{unique}-B"]["amount_charged"]) == (
        "999.99",
        "0.00",
    )
    assert ended[f"CLI-{unique}-B"]["outcome"] == Outcome.COMPENSATED
    assert saga.charges(f"CLI-{unique}-A") == 1
    assert saga.charges(f"CLI-{unique}-B") == 0


@pytest.mark.parametrize("lines", [False, True], ids=["JSON", "NDJSON"])
@pytest.mark.parametrize("through", ["a file", "standard input"])
def test_a_byte_order_mark_is_no_part_of_the_orders(
    world: World, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: bool, through: str
) -> None:
    """Files put together have several."""
    orders = [an_order(f"BOM-{unique}-{i}", notes="one\u2028line") for i in range(3)]
    texts = [json.dumps(order, ensure_ascii=False) for order in orders]
    text = "\ufeff" + "\n\ufeff".join(texts) if lines else "\ufeff" + json.dumps(orders)
    file = tmp_path / "orders.json"
    file.write_bytes(text.encode())
    if through == "standard input":
        monkeypatch.setattr("sys.stdin", file.open(encoding="utf-8"))
    assert order_saga(["submit", str(file) if through == "a file" else "-", "--no-wait"]) == 0
    assert {row[0] for row in world.sql("SELECT id FROM customer_order")} == {order["id"] for order in orders}


async def test_the_command_reports_that_a_rejected_order_stays_rejected(
    saga: World, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order, file = an_order(f"CLI-{unique}", total_amount="1.00"), tmp_path / "order.json"
    file.write_text(json.dumps(order))
    submit_orders([order])
    await process_pending_orders(consumer_seconds=0)
    capsys.readouterr()
    assert await asyncio.to_thread(order_saga, ["submit", str(file), "--no-wait"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "1 known (rejected)" in output
    assert f"known: CLI-{unique} ended as rejected and is not retried: total_amount: got 1.00" in output
    assert "accepted" not in output
    assert saga.order(order["id"]).outcome == Outcome.REJECTED
    assert saga.charges(order["id"]) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}\n{', "null", "\ufeff", '\ufeff{"id": 1'])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "orders.json"
    file.write_text(text)
    assert order_saga(["submit", str(file)]) == 2
    assert "orders.json" in capsys.readouterr().out.replace("\n", "")


async def test_an_order_with_a_run_of_its_own_is_stored_first(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in a run's parameters only.
    The order is kept for its run for a while: no consumer takes it from under it."""
    order = an_order(f"FIRST-{unique}")
    seen: list[int] = []

    def dies_at_once(_content: object) -> None:
        seen.append(len(saga.sql("SELECT 1 FROM customer_order WHERE id = :id", id=order["id"])))

    monkeypatch.setattr(trigger, "start_own_run", dies_at_once)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(run_order, order, own_run=True, timeout=0.5)
    assert seen == [1], "stored before its run was started"
    assert (await process_pending_orders(consumer_seconds=0))["orders"] == 0
    await process_order(order)
    assert saga.order(order["id"]).outcome == Outcome.COMPLETED
    assert saga.charges(order["id"]) == 1


async def test_an_order_whose_own_run_never_starts_may_be_claimed_by_any_run(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run could not be started, or died: after a while a consumer takes it."""
    monkeypatch.setattr(trigger, "_KEPT_SECONDS", 1)

    def no_server(_content: object) -> None:
        raise RuntimeError("the Prefect server is away")

    monkeypatch.setattr(trigger, "start_own_run", no_server)
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=60))
    try:
        ended = await asyncio.to_thread(run_order, an_order(f"NEVER-{unique}"), own_run=True, timeout=60)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    assert ended.outcome is Outcome.COMPLETED
    assert saga.charges(f"NEVER-{unique}") == 1
