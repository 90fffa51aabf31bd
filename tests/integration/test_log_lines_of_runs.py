"""Lines of orders that really ran: in the file, and in the Prefect UI,
each with its order, step and run; and masked."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.logging import get_run_logger

from flows.log_lines import configure
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.inventory import embedded
from shop.orders import intake
from tasks import notify_customer
from tests.integration.world import World, an_order
from tests.waiting import until


def lines(world: World) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in (world.var_dir / "logs").glob("shop.*.jsonl")
        for line in path.read_text().splitlines()
    ]


async def shown_in_the_ui(run_id: Any, word: str) -> str:
    found: list[str] = []

    async def there() -> bool:
        async with get_client() as client:
            logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
        found[:] = [log.message for log in logs if word in log.message]
        return bool(found)

    await until(there, 30, f"{word} in the Prefect UI")
    return found[0]


@pytest.mark.usefixtures("prefect_api")
async def test_a_step_s_line_has_order_step_and_run_and_is_in_the_ui(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = embedded.reserve

    async def talkative(*given: Any, **more: Any) -> Any:
        logging.getLogger("shop.inventory.embedded").warning(
            "reserving for jane@doe.example, marker %s", unique
        )
        get_run_logger().info("the task says 4242 4242 4242 4242, word %s", unique)
        return await reserve(*given, **more)

    monkeypatch.setattr(embedded, "reserve", talkative)
    configure()
    state = await process_order(an_order(f"LINES-{unique}"), return_state=True)
    run_id = state.state_details.flow_run_id
    ours = next(line for line in lines(saga) if f"marker {unique}" in line["event"])
    assert (ours["order_id"], ours["step"], ours["flow_run_id"]) == (
        f"LINES-{unique}",
        "check_inventory",
        str(run_id),
    )
    assert ours["event"] == f"reserving for [mail address], marker {unique}"
    task = next(line for line in lines(saga) if f"word {unique}" in line["event"])
    assert (task["order_id"], task["flow_run_id"]) == (f"LINES-{unique}", str(run_id))
    where = f"[LINES-{unique}, check_inventory]"
    assert await shown_in_the_ui(run_id, f"marker {unique}") == f"{ours['event']} {where}"
    assert (
        await shown_in_the_ui(run_id, f"word {unique}")
        == f"the task says [card number], word {unique} {where}"
    )
    about = [line for line in lines(saga) if line.get("flow_run_id") == str(run_id)]
    assert any("Beginning flow run" in line["event"] for line in about)
    without = [line["event"] for line in about if line.get("order_id") != f"LINES-{unique}"]
    assert without == [f"Finished in state Completed('LINES-{unique}: 999.99 USD charged')"], (
        "Prefect's own, of a run that is over"
    )


@pytest.mark.usefixtures("prefect_api")
async def test_exceptions_and_fields_are_masked_in_the_ui_too(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reserve = embedded.reserve

    async def talkative(*given: Any, **more: Any) -> Any:
        try:
            int(f"mail jane@doe.example card 4242 4242 4242 4242, cause {unique}")
        except ValueError:
            logging.getLogger("shop.inventory.embedded").exception("broke, mark %s", unique)
            get_run_logger().exception("the task broke, sign %s", unique)
        structlog.stdlib.get_logger("shop.inventory.embedded").warning(
            f"structured {unique}", customer={"name": "Jane Doe"}, pieces=3
        )
        return await reserve(*given, **more)

    monkeypatch.setattr(embedded, "reserve", talkative)
    configure()
    state = await process_order(an_order(f"MASKED-{unique}"), return_state=True)
    run_id = state.state_details.flow_run_id
    for word in ("mark", "sign"):
        shown = await shown_in_the_ui(run_id, f"{word} {unique}")
        assert f"mail [mail address] card [card number], cause {unique}" in shown
        assert "ValueError" in shown
        assert "jane@" not in shown
        assert "4242" not in shown
    structured = await shown_in_the_ui(run_id, f"structured {unique}")
    assert "pieces=3" in structured
    assert "Jane" not in structured
    printed = "".join(capfd.readouterr())
    assert f"cause {unique}" in printed
    assert "jane@" not in printed
    assert "4242 4242" not in printed


@pytest.mark.usefixtures("prefect_api")
async def test_the_lines_of_a_batch_name_its_orders_in_the_file(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_customer, "_ORDERS_PER_LINE", 3)
    intake.submit([an_order(f"BATCH-{i}-{unique}") for i in range(5)])
    configure()
    await process_pending_orders(consumer_seconds=0)
    completed = [line for line in lines(saga) if line["logger"] == "shop.completed"]
    named = [order_id for line in completed for order_id in line["order_ids"]]
    assert [len(line["order_ids"]) for line in completed] == [3, 2]
    assert sorted(named) == [f"BATCH-{i}-{unique}" for i in range(5)]
    assert {(line["step"], line["orders"]) for line in completed} == {("notify_customer", 5)}
    assert len({line["flow_run_id"] for line in completed}) == 1
