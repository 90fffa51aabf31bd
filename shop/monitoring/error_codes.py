"""Error codes that a step can end with. Business refusals are counted separately from failures.

So are attempts whose order was postponed because an external system is unavailable. They are repeated.
`Rule.EXTERNAL_UNAVAILABLE` reports them; error rates exclude them, so that one cause raises one alert.
"""

from __future__ import annotations

from types import ModuleType

from saga import errors as engine_errors
from saga.errors import InfrastructureError, StepError, UnknownStep
from shop.inventory import errors as inventory_errors
from shop.inventory.errors import InventoryTimeout, InventoryUnavailable
from shop.orders import errors as order_errors
from shop.payments import errors as payment_errors
from shop.payments.errors import PaymentAwaited, PaymentGatewayUnavailable, PaymentNeedsCustomer
from shop.shipping import errors as shipping_errors
from shop.shipping.errors import CarrierTimeout, CarrierUnavailable

_SHOP = (order_errors, inventory_errors, payment_errors, shipping_errors)


def _errors_of(*modules: ModuleType) -> set[type[StepError]]:
    known = (value for module in modules for value in vars(module).values())
    return {each for each in known if isinstance(each, type) and issubclass(each, StepError)}


REFUSALS = frozenset(kind.code for kind in _errors_of(engine_errors, *_SHOP) if kind.refusal)
"""The codes of every business refusal, the engine's and the shop's."""
SHOP_CODES = frozenset(kind.code for kind in _errors_of(*_SHOP)) - {StepError.code}
"""The codes of the shop's own errors."""


GATEWAY = (PaymentGatewayUnavailable.code,)
INVENTORY = (InventoryUnavailable.code, InventoryTimeout.code)
CARRIER = (CarrierUnavailable.code, CarrierTimeout.code)
CUSTOMER = (PaymentAwaited.code, PaymentNeedsCustomer.code)
"""The error codes with which an order waits for its customer's money."""
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
