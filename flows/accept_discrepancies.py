"""Accepts an order's open discrepancies, through a form in the UI."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.runs import OrderId, Words, about_order, started_by
from shop.reconciliation import outstanding


@flow(name="accept-discrepancies", flow_run_name=about_order("accept discrepancies of"), persist_result=False)
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
