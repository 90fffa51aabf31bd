"""Releases reservations that orders have held for too long."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from shop.inventory.expiry import expire_reservations


@task(name="release_expired_reservations", cache_policy=NO_CACHE, persist_result=False)
async def release_expired_reservations() -> dict[str, int]:
    """Releases expired reservations of orders that no worker holds. Returns the count."""
    released: list[str] = []
    while expired := await expire_reservations():
        released += expired
    if released:
        get_run_logger().info("expired reservations are released: %s", ", ".join(released))
    return {"reservations_released": len(released)}
