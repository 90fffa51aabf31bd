"""Attempts whose order was postponed because an external system is unavailable: neither the end of a step nor
a failure.

They are repeated. `Rule.EXTERNAL_UNAVAILABLE` reports them; error rates exclude them, so that one cause
raises one alert.
"""

from __future__ import annotations

from saga.errors import InfrastructureError, UnknownStep
from shop.inventory.errors import InventoryTimeout, InventoryUnavailable
from shop.payments.errors import PaymentGatewayUnavailable
from shop.shipping.errors import CarrierTimeout, CarrierUnavailable

GATEWAY = (PaymentGatewayUnavailable.code,)
INVENTORY = (InventoryUnavailable.code, InventoryTimeout.code)
CARRIER = (CarrierUnavailable.code, CarrierTimeout.code)
INFRASTRUCTURE = (InfrastructureError.code,)
VERSION = (UnknownStep.code,)
EXTERNAL = (*GATEWAY, *INVENTORY, *CARRIER, *INFRASTRUCTURE, *VERSION)
"""The error codes for which orders are postponed."""
POSTPONED = "postponed"
"""The status of such an attempt in metrics; the journal has it as failed until it is made again."""

# Of `order_step s` and its order, `customer_order o`.
# A code for which the order is compensated no longer postpones it.
STEP_IS_POSTPONED = (
    "s.status = 'failed' AND s.remark = ANY(CAST(:external AS text[])) "
    "AND o.id = s.order_id AND o.outcome IS NULL AND o.waits_for = s.remark "
    "AND o.failure ->> 'code' IS DISTINCT FROM s.remark"
)
"""Takes the parameter `external`, the codes. `UNDO_IS_POSTPONED` does, too."""
UNDO_IS_POSTPONED = (
    "s.undo_status = 'failed' AND s.undo_error ->> 'code' = ANY(CAST(:external AS text[])) "
    "AND o.id = s.order_id AND o.outcome IS NULL AND o.waits_for = s.undo_error ->> 'code'"
)
