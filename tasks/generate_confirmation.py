"""Step 4: write the personal confirmation. Changes nothing, never fails an order, never takes longer than its time limit."""

from __future__ import annotations

from shop.confirmation.confirmation import Confirmation
from shop.confirmation.writer import write_confirmation
from shop.settings import settings
from shop.under_way import OrderUnderWay
from tasks.step import outside_step


@outside_step()
async def generate_confirmation(order: OrderUnderWay) -> Confirmation:
    """A language model writes it if one is set, and the template if not, or if the model is down, slow or wrong."""
    return await write_confirmation(order.order, settings())
