"""Records money that came for an order by transfer or on delivery, through a form in the UI."""

from __future__ import annotations

import asyncio
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.consumers import wake_pending_lane
from flows.runs import OrderId, Reference, Words, about_order
from shop.payments.recording import Received, read_incoming, record
from shop.values.money import show

Amount = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^\s*\d{1,12}(\.\d{1,6})?\s*$")]


@flow(name="record-payment", flow_run_name=about_order("payment of"), persist_result=False)
async def record_payment(
    order_id: OrderId, amount: Amount, reference: Reference, recorded_by: Words
) -> State[Received]:
    """Records money that came for an order by transfer or on delivery. An order that waits for it continues
    once all of it is recorded. The same reference again changes nothing. Raises
    `NotReceivable`: there is no such order, it is paid otherwise, or the reference has another amount.

    Args:
        order_id: The order's id.
        amount: What came, in the order's currency, such as 1059.97.
        reference: Number of the bank's transfer or of the carrier's settlement. No card data.
        recorded_by: Who records it. Stored as typed.
    """
    payment = read_incoming(
        {
            "order_id": order_id,
            "amount": amount.strip(),
            "reference": reference,
            "recorded_by": recorded_by,
        }
    )
    received = await record(payment)
    if received.new:
        await asyncio.to_thread(wake_pending_lane)
    total = show(received.total_received, received.currency)
    message = "; ".join(filter(None, [f"{total} received for the order in all", received.to_do]))
    return Completed(
        name="Recorded" if received.new else "Known",
        message=message if received.new else f"recorded before, nothing was changed; {message}",
        data=received,
    )
