"""Results of deliveries, recorded immediately, so that few messages are sent twice if the process dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import text

from saga.database import as_json, is_database_error, retry_while_database_down, transaction
from saga.failpoints import failpoint

log = logging.getLogger(__name__)
M = TypeVar("M")

LOG_SECONDS = 20
"""Limits the retries after database errors, in seconds."""
_RECORDING = failpoint("the commit of messages sent")
_SENT = text(
    "UPDATE outbox SET sent_at = now(), error = NULL "
    "WHERE id = ANY(CAST(:ids AS bigint[])) AND sent_at IS NULL"
)
_NOT_SENT = text(
    """
    UPDATE outbox m
    SET error = coalesce(r.error, m.error), claimed_until = NULL,
        refused_at = CASE WHEN r.what = 'refused' THEN now() ELSE m.refused_at END,
        attempts = m.attempts - CASE WHEN r.what = 'untried' THEN 1 ELSE 0 END,
        next_attempt_at = now() + make_interval(secs => CASE WHEN r.what = 'untried' THEN 0
            ELSE greatest(r.pause, 30 * power(2, least(m.attempts - 1, 7))) END)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, what text, error text, pause float)
    WHERE m.id = r.id AND m.sent_at IS NULL
    """
)
_MOST_UNCLEAR = 5
"""Limits the attempts of a mail whose delivery was never confirmed; then it counts as undeliverable."""


class Batch(Generic[M]):
    """Messages with their numbers, which several workers send. They start none after `until`
    (`time.monotonic()`), after a failure that concerns all of them, or if results cannot be recorded."""

    def __init__(self, messages: Iterable[tuple[int, M]], on_result: OnResult, *, until: float) -> None:
        self._waiting, self._on_result, self._until = deque(messages), on_result, until
        self._stopped = False
        self.failure: DeliveryResult | None = None
        """What keeps all messages from being sent."""

    async def work(self, worker: Callable[[], Awaitable[None]], workers: int) -> None:
        """Runs the workers, each of which calls `send_all`. Then reports the messages that are left."""
        tasks = [asyncio.ensure_future(worker()) for _ in range(min(workers, len(self._waiting)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for number, _ in self._waiting:
            await self._on_result(number, self.failure or UNTRIED)

    async def send_all(self, send: Callable[[M], Awaitable[DeliveryResult]]) -> None:
        """Sends one message after the other, and reports each result."""
        while self._waiting and self.failure is None and not self._stopped and time.monotonic() < self._until:
            number, message = self._waiting.popleft()
            self._stopped |= not await self._on_result(number, await send(message))


class DeliveryLog:
    """The results of one batch, whose rows are given by number. Results that arrive during a commit are
    written together by the next one."""

    def __init__(self, rows: Mapping[int, Any]) -> None:
        self._rows = rows
        self._waiting: dict[int, DeliveryResult] = {}
        self._lock = asyncio.Lock()
        self.sent = self.failed = 0
        self.error: BaseException | None = None

    async def record(self, number: int, result: DeliveryResult) -> bool:
        """Records one result: an `OnResult`."""
        return await self.record_all({number: result})

    async def record_all(self, results: dict[int, DeliveryResult]) -> bool:
        self._waiting |= {number: self._final_result(number, result) for number, result in results.items()}
        async with self._lock:
            together, self._waiting = self._waiting, {}
            if together and self.error is None:
                try:
                    await retry_while_database_down(lambda: self._write(together), seconds=LOG_SECONDS)
                except Exception as error:
                    if not is_database_error(error):
                        raise
                    self.error = error
        return self.error is None

    def _final_result(self, number: int, result: DeliveryResult) -> DeliveryResult:
        row = self._rows[number]
        if result.what == "unclear":
            result = DeliveryResult("refused" if row["attempts"] >= _MOST_UNCLEAR else "later", result.error)
        if result.what == "refused":
            log.error(
                "the %s of order %s cannot be delivered: %s", row["kind"], row["order_id"], result.error
            )
        return result

    async def _write(self, results: dict[int, DeliveryResult]) -> None:
        sent = [number for number, result in results.items() if result.what == "sent"]
        others = [
            {"id": number, "what": result.what, "error": result.error, "pause": result.pause}
            for number, result in results.items()
            if result.what != "sent"
        ]
        async with transaction(_RECORDING) as tx:
            if sent:
                await tx.execute(_SENT, {"ids": sent})
            if others:
                await tx.execute(_NOT_SENT, {"rows": as_json(others)})
        self.sent += len(sent)
        self.failed += sum(other["what"] != "untried" for other in others)


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """A result: `sent`; `later`: to be retried; `unclear`: to be retried, but it may have arrived; `refused`:
    permanently; `untried`: not attempted for lack of time."""

    what: Literal["sent", "later", "unclear", "refused", "untried"]
    error: str | None = None
    """Stored and shown to people: codes and names, never the receiver's text, which may contain a customer's
    address."""
    pause: float = 0
    """The pause that the receiver asks for, in seconds. The outbox's own may be longer."""


HANDING_OVER, POSTING = failpoint("handing a mail to the mail server"), failpoint("posting to the CRM")
DATA_SECONDS = 120
"""Timeout of the mail server's answer after it received a mail: a short one would send mails twice."""
SENT, UNTRIED = DeliveryResult("sent"), DeliveryResult("untried")
OnResult = Callable[[int, DeliveryResult], Awaitable[bool]]
"""Receives the result of a message (by its number in the outbox) immediately. Returns False if results cannot
be recorded any more, so that the sender stops."""
