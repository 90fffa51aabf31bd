"""Is anything wrong that a person should look at? Every minute."""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.logging import get_run_logger

from flows.run_names import timed
from shop.alerts import notices
from shop.alerts.watch import watch
from tasks.tell_alerts import emit_alert_events, tell_people_of_alerts

PATIENCE_SECONDS = 120
"""For so long it is left to the automation to start `notify-alert`; on a server without automations, or with one that failed, people are
told from here."""


@flow(name="watch-orders", flow_run_name=timed("watch"), persist_result=False)
async def watch_orders() -> dict[str, int]:
    """Judges every rule from the journal, and emits `order.alert.raised` once when an alert begins and `order.alert.cleared` once when it
    is over. Judges at most once in `health_check_interval_seconds`, however many workers run this. With
    `worker_monitoring.enabled: false` nothing is judged, and what is open is over.
    """
    try:
        watched = await asyncio.to_thread(watch)
        told = await emit_alert_events() if await notices.is_due("event") else 0
    finally:  # people are told all the same of what is known
        if await notices.is_due("mail", "webhook", waited=PATIENCE_SECONDS):
            await tell_people_of_alerts()
    log = get_run_logger()
    if not watched.judged:
        log.info("nothing was judged: it is turned off, or was done a moment ago")
    elif watched.raised or watched.cleared:
        log.warning("%d alerts began, %d are over, %d are open", watched.raised, watched.cleared, watched.open)
    return {"raised": watched.raised, "cleared": watched.cleared, "open": watched.open, "told": told}
