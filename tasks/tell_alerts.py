"""Telling of alerts: as Prefect events, and to people."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.related import related_resources_from_run_context
from prefect.events.schemas.events import Resource
from prefect.logging import get_logger
from prefect.types import DateTime

from shop.alerts import notices
from shop.alerts.mail import posted
from shop.alerts.notices import Notice
from shop.alerts.sending import tell_people

log = get_logger("orders")
RAISED, CLEARED = "order.alert.raised", "order.alert.cleared"


@task(name="emit_alert_events", cache_policy=NO_CACHE, persist_result=False)
async def emit_alert_events() -> int:
    """An event for each alert that began or is over, once: noted when the server has it, and with the same id if that was not noted.
    Raises what the Prefect client raises: they are emitted by a later run then. One without words for it holds up no other."""
    told = 0
    while claimed := await notices.claim("event"):
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
        told += len(made)
    return told


@task(name="tell_people", cache_policy=NO_CACHE, persist_result=False)
async def tell_people_of_alerts() -> dict[str, int]:
    """Sends the mails and posts to the webhook; what fails is tried again later."""
    sent, failed = await tell_people()
    return {"sent": sent, "failed": failed}


async def _made(notice: Notice) -> Event | None:
    try:
        return _event(notice)
    except Exception as error:
        log.exception("no event could be made of alert %d", notice.alert_id)
        await notices.note([notice], type(error).__name__)
        return None


def _event(notice: Notice) -> Event:
    payload = posted(notice)
    resource = {"prefect.resource.id": notice.resource, "prefect.resource.name": notice.subject, "shop.alert.rule": notice.rule}
    return Event(
        id=uuid5(NAMESPACE_URL, payload["id"]),
        occurred=DateTime.fromtimestamp(notice.created_at.timestamp(), notice.created_at.tzinfo),
        event=RAISED if notice.phase == "raised" else CLEARED,
        resource=Resource(resource),
        payload=payload,
    )
