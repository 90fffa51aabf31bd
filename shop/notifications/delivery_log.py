"""Writing down how messages ended: each at once, so that a sender's death lets as few as can be be sent twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from saga.database import as_json, is_database_error, retry_while_database_down, transaction
from saga.failpoints import failpoint
from shop.notifications.delivery_result import DeliveryResult

log = logging.getLogger(__name__)

LOG_SECONDS = 20
"""So long it is tried while the database is in trouble."""
_NOTING = failpoint("the commit of messages sent")
_SENT = text("UPDATE outbox SET sent_at = now(), error = NULL WHERE id = ANY(CAST(:ids AS bigint[])) AND sent_at IS NULL")
_ENDED = text(
    """
    UPDATE outbox m
    SET error = coalesce(r.error, m.error), refused_at = CASE WHEN r.what = 'refused' THEN now() END,
        attempts = m.attempts - CASE WHEN r.what = 'untried' THEN 1 ELSE 0 END,
        next_attempt_at = now() + make_interval(secs => CASE WHEN r.what = 'untried' THEN 0
            ELSE greatest(r.pause, 30 * power(2, least(m.attempts - 1, 7))) END)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, what text, error text, pause float)
    WHERE m.id = r.id AND m.sent_at IS NULL
    """
)
_MOST_UNCLEAR = 5
"""So often a mail is sent whose arrival was never confirmed; then a person looks at it."""


class DeliveryLog:
    """Of one batch, whose rows are given by their number. What ends while a commit is under way is written by the next, together."""

    def __init__(self, rows: Mapping[int, Any]) -> None:
        self._rows = rows
        self._waiting: dict[int, DeliveryResult] = {}
        self._lock = asyncio.Lock()
        self.sent = self.failed = 0
        self.trouble: BaseException | None = None

    async def one(self, number: int, end: DeliveryResult) -> bool:
        """A `Tell`."""
        return await self.many({number: end})

    async def many(self, ends: dict[int, DeliveryResult]) -> bool:
        self._waiting |= {number: self._last_word(number, end) for number, end in ends.items()}
        async with self._lock:
            together, self._waiting = self._waiting, {}
            if together and self.trouble is None:
                try:
                    await retry_while_database_down(lambda: self._write(together), seconds=LOG_SECONDS)
                except Exception as error:
                    if not is_database_error(error):
                        raise
                    self.trouble = error
        return self.trouble is None

    def _last_word(self, number: int, end: DeliveryResult) -> DeliveryResult:
        row = self._rows[number]
        if end.what == "unclear":
            end = DeliveryResult("refused" if row["attempts"] >= _MOST_UNCLEAR else "later", end.error)
        if end.what == "refused":
            log.error("the %s of order %s cannot be delivered: %s", row["kind"], row["order_id"], end.error)
        return end

    async def _write(self, ends: dict[int, DeliveryResult]) -> None:
        sent = [number for number, end in ends.items() if end.what == "sent"]
        others = [
            {"id": number, "what": end.what, "error": end.error, "pause": end.pause} for number, end in ends.items() if end.what != "sent"
        ]
        async with transaction(_NOTING) as tx:
            if sent:
                await tx.execute(_SENT, {"ids": sent})
            if others:
                await tx.execute(_ENDED, {"rows": as_json(others)})
        self.sent += len(sent)
        self.failed += sum(other["what"] != "untried" for other in others)
