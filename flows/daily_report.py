"""The daily report: the artifact `daily-report` with charts, and a mail with tables."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from typing import Annotated

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.show_dashboard import STEPS
from saga.clock import database_time
from saga.database import transaction
from shop.monitoring.dashboard.dashboard import dashboard_page, headline
from shop.monitoring.dashboard.figures import Figures, read_figures
from shop.monitoring.dashboard.report_mail import report_payload
from shop.notifications import outbox
from shop.notifications.kinds import REPORT
from shop.runtime.times import bounds_of, day_of
from tasks.background import deliver_outbox

KEY = "daily-report"

Day = Annotated[
    date | None,
    Field(
        ge=date(2000, 1, 1),
        lt=date(2100, 1, 1),
        description="The day in SHOP_TIMEZONE; default: yesterday",
    ),
]


def _run_name() -> str:
    return f"report of {flow_run.parameters.get('day') or 'the day before'}"


@flow(name="daily-report", flow_run_name=_run_name, persist_result=False)
async def daily_report(day: Day = None) -> bool:
    """Shows the day's figures and mails them to `REPORT_EMAIL`: once per day, however often this runs, and
    only after the day is over. Returns whether this run put the mail into the outbox, which retries until
    it is sent."""
    now = await database_time()
    day = day or day_of(now) - timedelta(days=1)
    since, until = bounds_of(day)
    figures = await read_figures(since, until, parts=round((until - since) / timedelta(hours=1)))
    page = await asyncio.to_thread(dashboard_page, figures, STEPS, f"Orders of {day}")
    await acreate_markdown_artifact(page, key=KEY, description=f"{day}: {headline(figures)}")
    if until > now:
        get_run_logger().info("%s is not over yet: no mail", day)
        return False
    new = await _put(str(day), figures)
    if await outbox.is_due([str(day)]):
        await deliver_outbox(1, [str(day)])
    return new


async def _put(day: str, figures: Figures) -> bool:
    async with transaction() as tx:
        return await outbox.put(tx, [outbox.Message(day, REPORT, report_payload(figures, STEPS))]) > 0
