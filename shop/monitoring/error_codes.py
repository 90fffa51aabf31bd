"""Error codes that a step can end with. Business refusals are counted separately from failures."""

from __future__ import annotations

from types import ModuleType

from saga import errors as engine_errors
from saga.errors import StepError
from shop.inventory import errors as inventory_errors
from shop.orders import errors as order_errors
from shop.payments import errors as payment_errors
from shop.shipping import errors as shipping_errors

_SHOP = (order_errors, inventory_errors, payment_errors, shipping_errors)


def _errors_of(*modules: ModuleType) -> set[type[StepError]]:
    known = (value for module in modules for value in vars(module).values())
    return {each for each in known if isinstance(each, type) and issubclass(each, StepError)}


REFUSALS = frozenset(kind.code for kind in _errors_of(engine_errors, *_SHOP) if kind.refusal)
"""The codes of every business refusal, the engine's and the shop's."""
SHOP_CODES = frozenset(kind.code for kind in _errors_of(*_SHOP)) - {StepError.code}
"""The codes of the shop's own errors."""
