"""Evaluates the alert rules every minute."""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.logging import get_run_logger

from flows.run_names import timed
from shop.alerts import notices
from shop.alerts.delivery import delivery_is_due
from shop.alerts.watch import watch
from tasks.send_alerts import emit_alert_events, send_alerts

AUTOMATION_SECONDS = 120
"""Seconds that the automation has to start `notify-alert`. After that this flow delivers the alert: the
server may have no automation, or the automation or the delivery may have failed."""


@flow(name="watch-orders", flow_run_name=timed("watch"), persist_result=False)
async def watch_orders() -> dict[str, int]:
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
    log = get_run_logger()
    if not watched.evaluated:
        log.info("nothing was evaluated: alerts are turned off, or the last evaluation was a moment ago")
    elif watched.raised or watched.cleared:
        log.warning("%d alerts raised, %d cleared, %d open", watched.raised, watched.cleared, watched.open)
    return {"raised": watched.raised, "cleared": watched.cleared, "open": watched.open, "emitted": emitted}
