"""Mails and CRM messages that have not arrived, in the Prefect UI: the artifact `messages-not-delivered`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from prefect.artifacts import Artifact, acreate_table_artifact
from prefect.logging import get_logger

from flows.attention_artifact import is_shown
from shop.notifications.undelivered import Undelivered, read_undelivered

KEY = "messages-not-delivered"
_LIMIT_SECONDS = 20


async def show_undelivered() -> bool:
    """Makes the artifact, unless the last one says the same, or there is none and nothing to say. False if it could not be made. Never
    raises."""
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            left = await read_undelivered()
            table, description = [_row(message) for message in left], _description(left)
            if not left and await Artifact.aget(KEY) is None:
                return True
            if not await is_shown(KEY, table, description):
                await acreate_table_artifact(table=table, key=KEY, description=description)
    except Exception as error:  # noqa: BLE001  (orders go first, whatever is wrong with the Prefect server)
        get_logger("orders").warning("what was not delivered could not be shown in the UI (%s)", type(error).__name__)
        return False
    return True


def _row(message: Undelivered) -> dict[str, Any]:
    """No customer data: the error has codes and names only."""
    return {
        "order": message.order_id,
        "message": message.kind,
        "since": _shown(message.since),
        "attempts": message.attempts,
        "error": message.error,
        "next try": _shown(message.next_try) if message.next_try else "none: it was refused for good",
    }


def _description(left: list[Undelivered]) -> str:
    if not left:
        return "Every message has arrived, or is on its way."
    refused = sum(message.refused for message in left)
    return (
        f"{refused} refused for good, {len(left) - refused} tried again and again. The orders are not touched by it. From Python: "
        '`deployments.review.send_again("ORDER-1001")` once the cause is mended, or with no order for all of them.'
    )


def _shown(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
