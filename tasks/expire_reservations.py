"""Releases reservations that orders have held for too long."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from shop.inventory.expiry import any_expired, expire_reservations


async def release_expired_reservations() -> dict[str, int]:
    """Releases expired reservations of orders that no worker holds. Returns the count."""
    return {"reservations_released": await _release() if await any_expired() else 0}


@task(name="release_expired_reservations", cache_policy=NO_CACHE, persist_result=False)
async def _release() -> int:
    released: list[str] = []
    while expired := await expire_reservations():
        released += expired
    get_run_logger().info("expired reservations are released: %s", ", ".join(released) or "of no order")
    return len(released)
