"""The one pass over the journal that the metrics of events, of steps and of the business are made of.

It counts rows by step, status, remark and cell, from an index that has all of them: a million in a third of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from shop.errors import refusals
from shop.monitoring.cells import cell_of
from shop.monitoring.window import Window

REFUSALS = refusals()
"""The codes of a business "no": a failed step, and no fault of anything."""
_UNDO_CELL = cell_of("undo_begun_at", "undo_ended_at")
_COMMANDS = text(
    "SELECT step, status, remark, cell, count(*) AS commands, sum(attempts - 1) AS retries FROM order_step "
    "WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until GROUP BY step, status, remark, cell"
)
_COMPENSATIONS = text(
    f"SELECT step, undo_status AS status, NULL AS remark, {_UNDO_CELL} AS cell, count(*) AS commands, "  # noqa: S608  (constants)
    "sum(undo_attempts - 1) AS retries FROM order_step "
    "WHERE undo_ended_at IS NOT NULL AND undo_ended_at >= :since AND undo_ended_at < :until AND undo_status IN ('done', 'failed') "
    "GROUP BY 1, 2, 4"
)
# Nothing is decided about these orders: they wait for what the row says, and the row is written anew when they go on.
_PUT_OFF = text(
    "SELECT s.step, s.status, s.remark, s.cell, count(*) AS commands, sum(s.attempts - 1) AS retries "
    "FROM order_step s JOIN customer_order o ON o.id = s.order_id "
    "WHERE s.ended_at >= :since AND s.ended_at < :until AND s.status = 'failed' AND s.remark = ANY(CAST(:codes AS text[])) "
    "AND o.waits_for = s.remark AND o.failure ->> 'code' IS DISTINCT FROM s.remark GROUP BY 1, 2, 3, 4"
)
_UNDO_PUT_OFF = text(
    f"SELECT s.step, s.undo_status AS status, NULL AS remark, {_UNDO_CELL} AS cell, count(*) AS commands, "  # noqa: S608  (constants)
    "sum(s.undo_attempts - 1) AS retries FROM order_step s JOIN customer_order o ON o.id = s.order_id "
    "WHERE s.undo_ended_at >= :since AND s.undo_ended_at < :until AND s.undo_status = 'failed' "
    "AND s.undo_error ->> 'code' = ANY(CAST(:codes AS text[])) AND o.waits_for = s.undo_error ->> 'code' AND o.outcome IS NULL "
    "GROUP BY 1, 2, 4"
)
_MESSAGES = text(
    "SELECT kind AS step, 'done' AS status, NULL AS remark, 0 AS cell, count(*) AS commands, sum(greatest(attempts - 1, 0)) AS retries "
    "FROM outbox WHERE sent_at IS NOT NULL AND sent_at >= :since AND sent_at < :until GROUP BY kind"
)


@dataclass(frozen=True, slots=True)
class Counted:
    """So many that ended alike."""

    step: str
    status: str
    remark: str | None
    """The code of the failure, or who wrote a confirmation."""
    cell: int
    commands: int
    retries: int

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def refused(self) -> bool:
        return not self.done and self.remark in REFUSALS


def read_commands(connection: Connection, window: Window) -> list[Counted]:
    """Steps that ended in the window, done or failed. A step that is done again counts once, when it last ended."""
    return _read(connection, _COMMANDS, window)


def read_compensations(connection: Connection, window: Window) -> list[Counted]:
    """Compensations that ended in the window; `step` is the one that was undone."""
    return _read(connection, _COMPENSATIONS, window)


def read_messages(connection: Connection, window: Window) -> list[Counted]:
    """Mails and messages to the CRM that were sent in the window; `step` is their kind, and their cell says nothing."""
    return _read(connection, _MESSAGES, window)


def put_off_commands(connection: Connection, window: Window, codes: Collection[str]) -> list[Counted]:
    """Those among `read_commands` that failed with one of these codes, and whose orders were put off for it: not undone because of it."""
    return _read(connection, _PUT_OFF, window, codes=list(codes))


def put_off_compensations(connection: Connection, window: Window, codes: Collection[str]) -> list[Counted]:
    """The same among `read_compensations`."""
    return _read(connection, _UNDO_PUT_OFF, window, codes=list(codes))


def cells(counted: Iterable[Counted]) -> Counter[int]:
    """How many are in each cell."""
    found: Counter[int] = Counter()
    for each in counted:
        found[each.cell] += each.commands
    return found


def total(counted: Iterable[Counted]) -> int:
    return sum(each.commands for each in counted)


def share(part: int, whole: int) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def _read(connection: Connection, statement: object, window: Window, **more: object) -> list[Counted]:
    rows = connection.execute(statement, {**window.bounds, **more})  # type: ignore[call-overload]
    return [Counted(row.step, row.status, row.remark, int(row.cell), int(row.commands), int(row.retries)) for row in rows]
