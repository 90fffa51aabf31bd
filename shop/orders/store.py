"""The saga engine's store for orders."""

from __future__ import annotations

from saga.store import SagaStore
from shop.orders.hooks import OrderHooks
from shop.orders.order import Order, read_stored

ORDERS: SagaStore[Order] = SagaStore(
    instances="customer_order",
    journal="order_step",
    leases="lease",
    key="order_id",
    parse=read_stored,
    hooks=OrderHooks(),
)
