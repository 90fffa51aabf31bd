"""The flow that processes one order per run."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.order_run import order_run
from flows.runs import state_of
from shop.orders.order import EXAMPLE, Order
from shop.orders.outcomes import OrderOutcome

_FORM = {**EXAMPLE, "id": "ORDER-1002"}  # ORDER-1001 is one of the samples
FilledIn = Field(json_schema_extra={"default": _FORM, "examples": [_FORM]})
"""Fills the form of a new run in the UI with an example. Applies to the form only: a run without an order is
refused."""


# Prefect does not validate the parameters, so that an invalid order is rejected with its reasons instead of
# crashing its run.
@flow(name="process-order", validate_parameters=False, persist_result=False)
async def process_order(order: Annotated[Order, FilledIn]) -> State[OrderOutcome]:
    """Takes one order to its outcome:
    validated, reserved, charged, confirmed, shipped, notified; or compensated.

    The same order again returns the first one's outcome and does nothing. Raises `UnusableOrder` if the order
    has no usable id, and `OrderConflict` if a different order has its id.
    """
    # The run holds a lease. At its end it sends the order's mail and shows the order in the UI.
    async with order_run(order) as run:
        claimed = await run.accept(order)  # stored: from here on it reaches an outcome despite any crash
        while claimed or (known := await run.read_outcome()) is None:
            if claimed is None and (claimed := await run.claim()) is None:
                await run.wait_for_change()  # another worker has claimed it, or it is postponed
                continue
            await run.run(claimed)  # the steps; if one fails, the compensations in reverse order
            claimed = None
        return state_of(known)
