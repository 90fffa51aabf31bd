"""Shows undelivered mails and CRM messages in the Prefect UI: the artifact `messages-not-delivered`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from prefect.artifacts import Artifact, acreate_table_artifact
from prefect.logging import get_logger

from flows.attention_artifact import is_shown
from shop.notifications.outbox import Undelivered, read_undelivered
from shop.runtime.times import shown

KEY = "messages-not-delivered"
_LIMIT_SECONDS = 20


async def show_undelivered() -> bool:
    """Creates the artifact, unless the last one has the same content, or there is none and nothing to
    report. Returns False if it fails. Never raises."""
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            left = await read_undelivered()
            table, description = [_row(message) for message in left], _description(left)
            if not left and await Artifact.aget(KEY) is None:
                return True
            if not await is_shown(KEY, table, description):
                await acreate_table_artifact(table=table, key=KEY, description=description)
    except Exception as error:  # noqa: BLE001  (orders have priority, whatever is wrong with the Prefect server)
        get_logger("orders").warning(
            "showing undelivered messages in the UI failed (%s)", type(error).__name__
        )
        return False
    return True


def _row(message: Undelivered) -> dict[str, Any]:
    """Returns the table's row. No customer data: the error has codes and names only."""
    return {
        "order": message.order_id,
        "message": message.kind,
        "since": _shown(message.since),
        "attempts": message.attempts,
        "error": message.error,
        "next try": _shown(message.next_try) if message.next_try else "none: it was refused permanently",
    }


def _description(left: list[Undelivered]) -> str:
    if not left:
        return "Every message is delivered or in delivery."
    refused = sum(message.refused for message in left)
    return (
        f"{refused} refused permanently, {len(left) - refused} being retried. "
        "The orders are not affected. "
        'From Python: `deployments.review.send_again("ORDER-1001")` once the cause is fixed, '
        "or without an order for all of them."
    )


def _shown(when: datetime) -> str:
    return shown(when)
