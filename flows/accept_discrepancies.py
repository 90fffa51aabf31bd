"""A person says that our books and the gateway's may differ about an order, from the UI's form."""

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
    """What the last `reconcile-payments` found open about this order is not told any more, unless one of the books changes. Moves no money
    and changes no book. Who, when and why are kept (table `desk_entry`). Raises `NothingToAccept` and `ResolutionIncomplete`.

    Args:
        order_id: The order's id, as in the artifact reconciliation.
        accepted_by: Who decides this. Kept as typed, beside what Prefect knows of who started this run.
        reason: Why the books may differ, such as a goodwill refund made at the gateway. No card data.
    """
    accepted = await outstanding.accept(order_id, accepted_by=accepted_by, reason=reason, started_by=await started_by())
    return Completed(name="Accepted", message=f"{accepted} of {order_id.strip()}", data=accepted)
