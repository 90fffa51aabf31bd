"""Accepts an order's open discrepancies, through a form in the UI."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.who import started_by
from shop.orders.names import run_name
from shop.reconciliation import outstanding

OrderId = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(min_length=1, max_length=300)]


def _run_name() -> str:
    return run_name("accept discrepancies of", {"id": flow_run.parameters.get("order_id")})


@flow(name="accept-discrepancies", flow_run_name=_run_name, persist_result=False)
async def accept_discrepancies(order_id: OrderId, accepted_by: Words, reason: Words) -> State[int]:
    """Accepts the open discrepancies of an order: reconciliation no longer reports them, unless one side
    changes. Moves no money and changes no record. Stores who, when and why (table `desk_entry`). Raises
    `NothingToAccept` and `ResolutionIncomplete`.

    Args:
        order_id: The order's id, as in the artifact reconciliation.
        accepted_by: Who decides this. Stored as typed, beside Prefect's record of who started this run.
        reason: Why the difference is acceptable, such as a goodwill refund made at the gateway. No card data.
    """
    accepted = await outstanding.accept(
        order_id, accepted_by=accepted_by, reason=reason, started_by=await started_by()
    )
    return Completed(name="Accepted", message=f"{accepted} of {order_id.strip()}", data=accepted)
