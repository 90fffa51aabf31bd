"""Step 4: writes the personal confirmation. Changes nothing, never fails an order, never exceeds its time
limit."""

from __future__ import annotations

from saga.prefect.steps import external_step
from shop.confirmation.confirmation import Confirmation
from shop.confirmation.writer import template_confirmation, write_confirmation
from shop.orders.order import OrderInstance
from shop.settings import settings


def _from_template(order: OrderInstance) -> Confirmation | None:
    """Returns the template's confirmation if no language model is set: then there is nothing to wait for."""
    s = settings()
    return template_confirmation(order.payload, s) if s.language_model.model is None else None


@external_step(known=_from_template)
async def generate_confirmation(order: OrderInstance) -> Confirmation:
    """Writes the confirmation with a language model if one is configured; with the template if none is, or if
    the model is unavailable, slow or wrong."""
    return await write_confirmation(order.payload, settings())
