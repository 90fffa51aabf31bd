"""Manual review as a person uses it: deployments that are run from the UI's forms, by a worker."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import StateType

from deployments.local.programs import Worker
from flows.process_order import process_order
from shop.orders.outcomes import Outcome
from tests.integration.world import World, an_order
from tests.waiting import until

PRICE = Decimal("999.99")


async def run_from_its_form(deployment: str, **parameters: Any) -> FlowRun:
    """Starts it as the UI does, and waits until a worker has run it."""
    async with get_client() as client:
        made = await client.read_deployment_by_name(deployment)
        run = await client.create_flow_run_from_deployment(made.id, parameters=parameters)

        async def ended() -> bool:
            state = (await client.read_flow_run(run.id)).state
            return state is not None and state.is_final()

        await until(ended, 90, f"{deployment} to end")
        return await client.read_flow_run(run.id)


@pytest.mark.slow
async def test_an_order_is_previewed_cancelled_and_another_settled(
    saga: World, worker: Worker, unique: str
) -> None:
    shipped, in_review = f"SHIPPED-{unique}", f"REVIEW-{unique}"
    await process_order(an_order(shipped), return_state=True)
    await process_order(an_order(in_review, card="0259", country="AQ"), return_state=True)
    asks = {"order_id": shipped, "reason": "does not fit", "requested_by": "ann"}

    preview = await run_from_its_form("cancel-order/cancel-order", **asks, confirmed=False)
    assert (preview.state_name, preview.state_type) == ("Preview", StateType.COMPLETED)
    assert "999.99 USD" in str(preview.state and preview.state.message)
    assert saga.money(shipped) == (PRICE, 0), "looking changes nothing"

    cancelled = await run_from_its_form("cancel-order/cancel-order", **asks, confirmed=True)
    assert cancelled.state_name == "Compensated"
    assert saga.money(shipped) == (PRICE, PRICE)
    assert saga.stock("PROD-001") == (100, 0)
    assert "refund" in saga.mail_kinds(shipped)

    settled = await run_from_its_form(
        "resolve-order/resolve-order",
        order_id=in_review,
        resolution="refunded_by_hand",
        resolved_by="ann",
        reference="transfer 4711",
    )
    assert settled.state_name == "Compensated"
    assert saga.order(in_review).outcome == Outcome.COMPENSATED
    decided = saga.sql('SELECT action, "by", reason, reference FROM desk_entry ORDER BY id')
    assert decided == [
        ("cancel", "ann", "does not fit", None),
        ("refunded_by_hand", "ann", None, "transfer 4711"),
    ]
    saga.assert_books_balance()


async def test_the_forms_explain_every_field_and_refuse_what_is_missing(worker: Worker) -> None:
    async with get_client() as client:
        for name, required in (
            ("resolve-order", {"order_id", "resolution", "resolved_by"}),
            ("cancel-order", {"order_id", "reason", "requested_by", "confirmed"}),
            ("retry-order", {"order_id", "reason", "requested_by"}),
        ):
            schema = (await client.read_deployment_by_name(f"{name}/{name}")).parameter_openapi_schema
            assert set(schema["required"]) == required
            assert all(field.get("description") for field in schema["properties"].values()), name
