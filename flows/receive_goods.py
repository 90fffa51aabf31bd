"""Records goods that have arrived, through a form in the UI."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.runs import OptionalWords, Reference, Words, started_by
from shop.inventory.deliveries import DeliveryReceipt, read_delivery
from shop.inventory.stock import receive
from shop.orders.names import run_name

ProductId = Annotated[str, Field(min_length=1, max_length=200)]
Pieces = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _run_name() -> str:
    pieces, product = (flow_run.parameters.get(name) for name in ("pieces", "product_id"))
    return run_name(f"receive {pieces}", {"id": product})


@flow(name="receive-goods", flow_run_name=_run_name, persist_result=False)
async def receive_goods(  # noqa: PLR0917  (a form)
    product_id: ProductId,
    pieces: Pieces,
    reference: Reference,
    received_by: Words,
    name: OptionalWords = None,
    note: OptionalWords = None,
) -> State[DeliveryReceipt]:
    """Records a delivery and adds its pieces to the stock. The same delivery again changes nothing. Raises
    the errors of `shop.inventory.errors`: the product is unknown, other goods have the reference, or the
    inventory service does not answer.

    Args:
        product_id: The catalogue's id of the product.
        pieces: How many pieces arrived.
        reference: Number of the delivery note, so that no delivery is received twice.
        received_by: Who received the goods. Stored as typed, beside Prefect's record of who started this run.
        name: The product's name, if it is new: creates it.
        note: Stored with the delivery. No card data.
    """
    delivery = read_delivery(
        {
            "product_id": product_id,
            "pieces": pieces,
            "reference": reference,
            "received_by": received_by,
            "name": name,
            "note": note,
        }
    )
    (receipt,) = await receive([delivery], started_by=await started_by())
    on_hand = ", ".join(f"{each.on_hand} x {each.product_id} on hand" for each in receipt.items)
    message = on_hand if receipt.status == "received" else f"received before, nothing was added; {on_hand}"
    return Completed(name=receipt.status.capitalize(), message=message[:1000], data=receipt)
