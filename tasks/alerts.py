"""Tasks that evaluate the alert rules, and deliver alerts: as Prefect events, and to the services in
`ALERT_URLS`."""

from __future__ import annotations

import asyncio
from uuid import NAMESPACE_URL, uuid5

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.related import related_resources_from_run_context
from prefect.events.schemas.events import Resource
from prefect.logging import get_logger, get_run_logger
from prefect.types import DateTime

from shop.alerts import notices
from shop.alerts.delivery import deliver, delivery_is_due
from shop.alerts.message import event_payload
from shop.alerts.notices import Notice
from shop.alerts.watch import watch

log = get_logger("orders")
RAISED, CLEARED = "order.alert.raised", "order.alert.cleared"
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


@task(name="emit_alert_events", cache_policy=NO_CACHE, persist_result=False)
async def emit_alert_events() -> int:
    """Emits one event for each alert that was raised or has cleared. Returns how many.

    An event counts as emitted once the server has confirmed it; until then it is emitted again, with the same
    id. An alert that cannot be described does not delay the others. Raises the Prefect client's errors; a
    later run retries.
    """
    emitted = 0
    while claimed := await notices.claim(notices.EVENT):
        made = [(notice, event) for notice in claimed if (event := await _made(notice)) is not None]
        if not made:
            continue
        due = [notice for notice, _ in made]
        async with get_client() as client:
            related = await related_resources_from_run_context(client)
        try:
            async with get_events_client(checkpoint_every=1) as events:
                for _, event in made:
                    event.related = related
                    await events.emit(event)
        except Exception as error:
            await notices.note(due, type(error).__name__)
            raise
        await notices.note(due)
        emitted += len(made)
    return emitted


@task(name="send_alerts", cache_policy=NO_CACHE, persist_result=False)
async def send_alerts() -> dict[str, int]:
    """Sends the alerts that are due to the services in `ALERT_URLS`.
    Failed deliveries are retried by a later run."""
    sent, failed = await deliver()
    return {"sent": sent, "failed": failed}


async def _made(notice: Notice) -> Event | None:
    try:
        return _event(notice)
    except Exception as error:
        log.exception("alert %d cannot be described", notice.alert_id)
        await notices.note([notice], type(error).__name__)
        return None


def _event(notice: Notice) -> Event:
    payload = event_payload(notice)
    resource = {
        "prefect.resource.id": notice.resource,
        "prefect.resource.name": notice.subject,
        "shop.alert.rule": notice.rule,
    }
    return Event(
        id=uuid5(NAMESPACE_URL, payload["id"]),
        occurred=DateTime.fromtimestamp(notice.created_at.timestamp(), notice.created_at.tzinfo),
        event=RAISED if notice.phase == "raised" else CLEARED,
        resource=Resource(resource),
        payload=payload,
    )
