"""Evaluates the alert rules, and delivers what has not been delivered."""

from __future__ import annotations

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from shop.alerts import notices
from shop.alerts.delivery import delivery_is_due
from shop.alerts.watch import watch
from tasks.send_alerts import emit_alert_events, send_alerts

AUTOMATION_SECONDS = 120
"""Seconds that the automation has to start `notify-alert`. After that the alert is delivered from here: the
server may have no automation, or the automation or the delivery may have failed."""


@task(name="evaluate_alerts", cache_policy=NO_CACHE, persist_result=False)
async def evaluate_alerts() -> dict[str, int]:
    """Evaluates every rule from the journal; emits `order.alert.raised` once when an alert begins,
    `order.alert.cleared` once when it ends.

    Evaluates at most once per `health_check_interval_seconds`, however many workers run this. With
    `worker_monitoring.enabled: false` nothing is evaluated, and open alerts clear.
    """
    try:
        watched = await asyncio.to_thread(watch)
        emitted = await emit_alert_events() if await notices.is_due(notices.EVENT) else 0
    finally:  # known alerts are delivered even if the evaluation fails
        if await delivery_is_due(AUTOMATION_SECONDS):
            await send_alerts()
    if watched.raised or watched.cleared:
        get_run_logger().warning(
            "%d alerts raised, %d cleared, %d open", watched.raised, watched.cleared, watched.open
        )
    return {"raised": watched.raised, "cleared": watched.cleared, "open": watched.open, "emitted": emitted}
