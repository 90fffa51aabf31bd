"""Where orders are stored, for the saga engine."""

from __future__ import annotations

from saga.store import SagaStore
from shop.order import Order, read_stored
from shop.order_hooks import OrderHooks

ORDERS: SagaStore[Order] = SagaStore(
    instances="customer_order", journal="order_step", leases="lease", key="order_id", parse=read_stored, hooks=OrderHooks()
)
