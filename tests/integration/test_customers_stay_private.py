"""What customers type is planted in every field of orders that go every way; then all is searched that
Prefect keeps beside a run's own parameters, why orders did not complete, and the log lines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deployments.local.postgres import EmbeddedPostgres
from flows.log_lines import configure
from flows.process_order import process_order
from shop.orders import intake_content, report
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import Outcome
from shop.orders.report import read_status
from shop.settings import Settings
from tests.integration.world import World
from tests.waiting import until

PLANTED = "Kq4Planted"
LEAK = re.compile(PLANTED, re.IGNORECASE)
CUSTOMER: dict[str, Any] = {
    "customer_id": f"C {PLANTED}",
    "customer_name": f"Jane {PLANTED}",
    "customer_email": f"jane@{PLANTED.lower()}.example",
    "notes": f"leave it with {PLANTED}",
}
ADDRESS = {
    "name": f"Jane {PLANTED}",
    "address": f"{PLANTED} Street 9",
    "address2": f"c/o {PLANTED}",
    "city": f"{PLANTED}town",
    "state": f"{PLANTED}shire",
    "zip": f"{PLANTED} 1",
    "phone": f"{PLANTED} 2",
    "country": "US",
}
ITEM = {"product_id": "PROD-001", "quantity": 1, "price": "999.99", "name": f"Laptop for {PLANTED}"}
PAYMENT = {"method": "credit_card", "card_last4": "1234"}
CONTENT_OF_ORDERS = {
    "customer_order": ("content",),
    "flow_run": ("parameters",),
    "deployment": ("parameters", "parameter_openapi_schema"),
}
"""Where an order itself is kept, and what is shown of it is the reader's business."""


def planted(order_id: str, **fields: Any) -> dict[str, Any]:
    order = {
        **EXAMPLE,
        **CUSTOMER,
        "id": order_id,
        "items": [ITEM],
        "total_amount": "999.99",
        "payment_info": PAYMENT,
        "shipping_info": ADDRESS,
    }
    return {**order, **fields}


def rejected_ones(prefix: str) -> list[dict[str, Any]]:
    """Something wrong in each part."""
    wrong: list[dict[str, Any]] = [
        {"customer_email": f"{PLANTED} at home", "customer_name": [f"{PLANTED}"]},
        {
            "shipping_info": {**ADDRESS, "country": f"{PLANTED}land"},
            "payment_info": {"method": f"{PLANTED} pays", "token": f"{PLANTED}" * 40},
        },
        {
            "items": [
                {**ITEM, "product_id": f"for {PLANTED}", "quantity": f"{PLANTED}", "price": f"{PLANTED} 9"},
                f"{PLANTED}",
            ]
        },
        {
            "shipping_info": f"{PLANTED} Street 9",
            "currency": f"{PLANTED}",
            "total_amount": {PLANTED: PLANTED},
        },
        {"payment_info": {**PAYMENT, f"of {PLANTED}": {"cvv": "9173"}}, "notes": {"said": PLANTED}},
    ]
    return [planted(f"{prefix}-WRONG-{number}", **fields) for number, fields in enumerate(wrong)]


def rows(url: str) -> Iterator[tuple[str, str]]:
    """Every row of every table, without what an order itself says."""
    engine = create_engine(Settings(DATABASE_URL=url).database_url)
    with engine.connect() as connection:
        tables = (
            connection.execute(
                text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            )
            .scalars()
            .all()
        )
        for table in tables:
            kept = list(CONTENT_OF_ORDERS.get(table, ()))
            for row in connection.execute(
                text(f'SELECT (to_jsonb(t) - CAST(:kept AS text[]))::text FROM "{table}" t'), {"kept": kept}
            ).scalars():
                yield table, row
    engine.dispose()


@pytest.mark.usefixtures("prefect_api")
async def test_nothing_of_a_customer_is_in_states_events_reasons_or_logs(
    saga: World,
    postgres: EmbeddedPostgres,
    world_dir: Path,
    unique: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    configure()
    prefix = f"PRIVATE-{unique}"
    ways = {
        f"{prefix}-GOOD": ({}, Outcome.COMPLETED),
        f"{prefix}-UNDONE": ({"shipping_info": {**ADDRESS, "country": "AQ"}}, Outcome.COMPENSATED),
        f"{prefix}-DECLINED": ({"payment_info": {**PAYMENT, "card_last4": "0002"}}, Outcome.COMPENSATED),
        f"{prefix}-STUCK": (
            {
                "payment_info": {**PAYMENT, "card_last4": "0259"},
                "shipping_info": {**ADDRESS, "country": "AQ"},
            },
            Outcome.NEEDS_ATTENTION,
        ),
    }
    orders = [planted(order_id, **fields) for order_id, (fields, _) in ways.items()] + rejected_ones(prefix)
    for order in orders:
        await process_order(json.loads(intake_content.take_in(order).text), return_state=True)
    ends = report.read([order["id"] for order in orders])
    for order in orders:
        assert ends[order["id"]].outcome is ways.get(order["id"], ({}, Outcome.REJECTED))[1], ends[
            order["id"]
        ]
        assert not LEAK.search(" ".join(ends[order["id"]].reasons))
        assert not LEAK.search(ends[order["id"]].model_dump_json())
        status = await read_status(order["id"])
        assert status is not None
        assert not LEAK.search(status.model_dump_json())

    prefect = postgres.url("prefect")

    async def events_written() -> bool:
        """The server writes events a little later."""
        events = [row for table, row in rows(prefect) if table == "events" and prefix in row]
        return sum("flow-run.Rejected" in row or '"Rejected"' in row for row in events) >= 5 and any(
            "task-run" in row for row in events
        )

    await until(events_written, 60, "the events to be written")
    logs = logging.getLogger("shop")
    for handler in logs.handlers:
        handler.flush()
    found = [(table, row) for table, row in rows(prefect) if LEAK.search(row)]
    assert found == []
    assert {"flow_run_state", "task_run_state", "events", "log"} <= {table for table, _ in rows(prefect)}
    ours = [(table, row) for table, row in rows(saga.database_url) if LEAK.search(row)]
    # The text for the customer, what is sent to the customer and the shop's own books of customers are about
    # the customer.
    assert {table for table, _ in ours} <= {
        "order_step",
        "outbox",
        "customer_interaction",
        "confirmation",
        "shipment",
    }
    assert [
        row
        for table, row in ours
        if table == "order_step" and LEAK.search(json.dumps(_beside_its_result(row)))
    ] == []
    for file in [*(saga.var_dir / "logs").glob("*"), *(world_dir / "logs").glob("*")]:
        assert not LEAK.search(file.read_text(errors="replace")), file
    shown = capfd.readouterr()
    assert LEAK.search(shown.out + shown.err) is None


def _beside_its_result(row: str) -> dict[str, Any]:
    """A step's error and notes, and why and how it was undone."""
    step: dict[str, Any] = json.loads(row)
    return {name: value for name, value in step.items() if name != "result"}
