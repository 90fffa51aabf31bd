"""Delivers alerts; started by an automation."""

from __future__ import annotations

from prefect import flow

from flows.runs import timed
from tasks.alerts import send_alerts


@flow(name="notify-alert", flow_run_name=timed("alerts sent"), persist_result=False)
async def notify_alert() -> dict[str, int]:
    """Delivers due alerts to each service in `ALERT_URLS`: one message when an alert is raised, one when it
    clears.

    Can run at any time: a delivered message is not sent again.
    """
    return await send_alerts()
