"""Deliveries of alerts that are due: claimed by one worker at a time, and recorded one by one as they end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import text

from saga.database import transaction
from saga.failpoints import failpoint

log = logging.getLogger(__name__)

EVENT = "event"
"""The delivery as a Prefect event; the other destinations are `url-1`, `url-2`, ...: the entries of
`ALERT_URLS`."""
_MOST = 10
_CLAIM_SECONDS = 300
"""Claim duration in seconds, longer than delivering `_MOST` notices can take. Then another worker may
deliver them."""
_CLAIMING, _NOTING = (
    failpoint("the commit of claiming notices of alerts"),
    failpoint("the commit of delivered notices of alerts"),
)
DUE_DAYS = 2
"""Limits the age of a notice that is delivered, in days: a service that was removed from `ALERT_URLS` leaves
notices, which are not for the service that later has its position."""
# The end of an alert is delivered after its beginning.
_DUE = f"""
    n.sent_at IS NULL AND n.created_at > now() - interval '{DUE_DAYS} days'
    AND n.way = ANY(CAST(:ways AS text[]))
    AND n.next_attempt_at <= now() - make_interval(secs => :waited)
    AND (n.phase = 'raised' OR NOT EXISTS (
        SELECT 1 FROM alert_notice b
        WHERE b.alert_id = n.alert_id AND b.way = n.way AND b.phase = 'raised' AND b.sent_at IS NULL))
"""  # noqa: S608  (a constant)
_IS_DUE = text(f"SELECT EXISTS (SELECT 1 FROM alert_notice n WHERE {_DUE})")  # noqa: S608  (a constant)
_CLAIM = text(
    f"""
    WITH due AS (
        SELECT n.alert_id, n.phase, n.way FROM alert_notice n WHERE {_DUE}
        ORDER BY n.created_at, n.alert_id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE alert_notice n
    SET attempts = n.attempts + 1, next_attempt_at = now() + make_interval(secs => :claim)
    FROM due, alert a
    WHERE n.alert_id = due.alert_id AND n.phase = due.phase AND n.way = due.way AND a.id = n.alert_id
    RETURNING n.alert_id, n.phase, n.way, n.created_at, n.attempts, a.rule, a.subject, a.resource, a.since,
        a.value, a.threshold, a.details, a.over_at, a.over_because
    """  # noqa: S608
)
_SENT = text(
    "UPDATE alert_notice SET sent_at = now(), error = NULL "
    "WHERE alert_id = :alert_id AND phase = :phase AND way = :way AND sent_at IS NULL"
)
_RETRY_LATER = text(
    "UPDATE alert_notice SET error = :error, "
    "next_attempt_at = now() + make_interval(secs => 30 * power(2, least(attempts - 1, 7))) "
    "WHERE alert_id = :alert_id AND phase = :phase AND way = :way AND sent_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Notice:
    """One delivery: the beginning or the end of an alert, to one destination."""

    alert_id: int
    phase: Literal["raised", "cleared"]
    way: str
    created_at: datetime
    attempts: int
    rule: str
    subject: str
    resource: str
    since: datetime
    value: float
    """At the last evaluation."""
    threshold: float
    details: dict[str, Any]
    over_at: datetime | None
    over_because: str | None

    @property
    def key(self) -> str:
        """Unique per alert and phase."""
        return f"{self.alert_id}\n{self.phase}\n{self.rule}\n{self.subject}\n{self.since.timestamp()}"


async def is_due(*ways: str, waited: float = 0) -> bool:
    """Returns whether a notice for one of these destinations has been due for `waited` seconds."""
    async with transaction() as tx:
        return bool((await tx.execute(_IS_DUE, {"ways": list(ways), "waited": waited})).scalar())


async def claim(*ways: str) -> list[Notice]:
    """Claims notices that are due, the oldest first. Notices of a worker that dies are delivered again
    some minutes later."""
    async with transaction(_CLAIMING) as tx:
        rows = (
            await tx.execute(
                _CLAIM, {"ways": list(ways), "waited": 0.0, "most": _MOST, "claim": _CLAIM_SECONDS}
            )
        ).mappings()
        return sorted(
            (Notice(**row) for row in rows), key=lambda notice: (notice.created_at, notice.alert_id)
        )


async def note(notices: Sequence[Notice], error: str | None = None) -> None:
    """Records that notices were delivered, or why not: then they are retried after 30 s, 1 min, 2 min, up
    to about an hour, for `DUE_DAYS`."""
    async with transaction(_NOTING) as tx:
        for notice in notices:
            which = {"alert_id": notice.alert_id, "phase": notice.phase, "way": notice.way}
            if error is None:
                await tx.execute(_SENT, which)
            else:
                await tx.execute(_RETRY_LATER, {**which, "error": error})
    if error is not None and notices:
        log.warning("%d alert notices were not delivered (%s) and will be retried", len(notices), error)
