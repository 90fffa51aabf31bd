"""What a try is whose order was put off because something outside is away: no end of its step, and no failure. It is made again.

`Rule.OUTSIDE_AWAY` tells of them; they count in no error rate, and nobody is told of one cause twice.
"""

from __future__ import annotations

from shop.errors import (
    CarrierTimeout,
    CarrierUnavailable,
    InfrastructureTrouble,
    InventoryTimeout,
    InventoryUnavailable,
    PaymentGatewayUnavailable,
    UnknownStep,
)

GATEWAY_AWAY = (PaymentGatewayUnavailable.code,)
INVENTORY_AWAY = (InventoryUnavailable.code, InventoryTimeout.code)
CARRIER_AWAY = (CarrierUnavailable.code, CarrierTimeout.code)
INFRASTRUCTURE_AWAY = (InfrastructureTrouble.code,)
VERSION_AWAY = (UnknownStep.code,)
AWAY = (*GATEWAY_AWAY, *INVENTORY_AWAY, *CARRIER_AWAY, *INFRASTRUCTURE_AWAY, *VERSION_AWAY)
"""The codes."""
PUT_OFF = "put_off"
"""The status of such a try in metrics; in the journal it is a failed one until it is made again."""

# Of `order_step s` and `customer_order o`, its order. A code that the order is undone for is no pause any more.
STEP_IS_PUT_OFF = (
    "s.status = 'failed' AND s.remark = ANY(CAST(:away AS text[])) "
    "AND o.id = s.order_id AND o.outcome IS NULL AND o.waits_for = s.remark AND o.failure ->> 'code' IS DISTINCT FROM s.remark"
)
"""Takes `away`: the codes. So does the next."""
UNDO_IS_PUT_OFF = (
    "s.undo_status = 'failed' AND s.undo_error ->> 'code' = ANY(CAST(:away AS text[])) "
    "AND o.id = s.order_id AND o.outcome IS NULL AND o.waits_for = s.undo_error ->> 'code'"
)
