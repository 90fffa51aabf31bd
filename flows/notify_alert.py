"""Tells people of alerts, when an automation hears of one."""

from __future__ import annotations

from prefect import flow

from flows.run_names import timed
from tasks.tell_alerts import tell_people_of_alerts


@flow(name="notify-alert", flow_run_name=timed("alerts told"), persist_result=False)
async def notify_alert() -> dict[str, int]:
    """Sends what is due: a mail to `ALERT_EMAIL`, and a message to `ALERT_WEBHOOK_URL` if it is set; once for an alert that begins and once
    when it is over. What was sent before is not sent again, so that it can be run at any time."""
    return await tell_people_of_alerts()
