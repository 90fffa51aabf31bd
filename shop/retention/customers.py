"""Erasing what we know of the customers of old orders. What stays: ids, amounts, steps, statuses, codes and times; and the order's
fingerprint, so that the same order sent again is known and charges nobody.

Files go before the database says that they are gone: broken off anywhere, the same order is erased again, which changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import Connection, text

from saga import manual
from saga.database import sync_engine
from saga.failpoints import failpoint
from shop.notifications import erasure as message_erasure
from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_names
from shop.orders import erasure as order_erasure
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.retention.scrub import ERASED, scrubbed, scrubbed_content
from shop.review import erasure as review_erasure
from shop.runtime.files import is_spelled_so
from shop.settings import Settings, settings
from shop.shipping.labels.files import label_paths

log = logging.getLogger(__name__)

_AT_ONCE = 500
_LEFT_SECONDS = 86_400
_FILES, _ERASING = failpoint("deleting customers' files"), failpoint("the commit of erasing customers")
# Not while a person or a worker has anything to do with it, or something is still to be sent.
_MAY_GO = """
    o.outcome IN ('completed', 'rejected', 'out_of_stock', 'compensated') AND o.erased_at IS NULL
    AND o.finished_at < now() - make_interval(secs => :seconds)
    AND NOT EXISTS (SELECT 1 FROM outbox m WHERE m.order_id = o.id AND m.sent_at IS NULL AND m.refused_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM attention a WHERE a.order_id = o.id AND a.resolved_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM dispute d WHERE d.order_id = o.id AND d.closed_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM payment_event e WHERE e.order_id = o.id AND e.handled_at IS NULL)
"""
_NEXT = text(
    f"""
    SELECT o.id, o.outcome, o.amount_charged, o.finished_at, o.content, o.failure, o.reasons, o.undone FROM customer_order o
    WHERE {_MAY_GO} AND (o.finished_at, o.id) > (CAST(:after AS timestamptz), CAST(:after_id AS text))
    ORDER BY o.finished_at, o.id LIMIT {_AT_ONCE} FOR UPDATE OF o SKIP LOCKED
    """  # noqa: S608  (constants)
)
_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)
_ERASED_ONES = text("SELECT id FROM customer_order WHERE id = ANY(CAST(:ids AS text[])) AND erased_at IS NOT NULL")


def erase_customers(days: float | None = None) -> int:
    """Erases the customers of orders that ended so many days ago (None: `CUSTOMER_DATA_DAYS`; if that is not set, nobody is erased).
    Returns how many orders that were.

    An order that is open, on the desk, disputed, or has a message to be sent keeps everything. Hundreds of orders a transaction; whoever
    erases at the same time takes others. Labels and mails go that are in this process's `VAR_DIR`. Not from an event loop. Raises
    SQLAlchemyError if the database is away, and OSError if a file cannot be deleted: run it again.
    """
    s = settings()
    if (days := s.retention.customer_data_days if days is None else days) is None:
        return 0
    mails = _mails(s)
    _delete_leftovers(s)
    erased, after = 0, (_LONG_AGO, "")
    with sync_engine(s.database_url).connect() as connection:
        while True:
            with connection.begin() as running:
                asked = {"seconds": days * 86_400, "after": after[0], "after_id": after[1]}
                rows = connection.execute(_NEXT, asked).mappings().all()
                if not rows:
                    return erased
                _delete_files([row["id"] for row in rows], s, mails)
                _erase(connection, rows)
                with _ERASING:
                    running.commit()
            erased, after = erased + len(rows), (rows[-1]["finished_at"], rows[-1]["id"])


def erased_ones(order_ids: Iterable[str]) -> set[str]:
    """Those of the orders whose customers are erased. Not from an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return set(connection.execute(_ERASED_ONES, {"ids": list(order_ids)}).scalars())


def _erase(connection: Connection, rows: Sequence[Any]) -> None:
    ids = [row["id"] for row in rows]
    entries = manual.read_entries(connection, ORDERS, ids)
    scrubbed_entries = [{**{name: scrubbed(value) for name, value in e.items()}, "id": e["id"], "step": e["step"]} for e in entries]
    manual.redact(connection, ORDERS, scrubbed_entries)
    orders = [
        {
            "id": row["id"],
            "content": scrubbed_content(row["content"], row["id"], paid=row["outcome"] == Outcome.COMPLETED or row["amount_charged"] > 0),
            "failure": {**scrubbed(row["failure"] or {}), "message": ERASED, "reasons": [ERASED]},
            "reasons": [ERASED] if row["reasons"] else [],
            "undone": scrubbed(row["undone"]),
        }
        for row in rows
    ]
    order_erasure.erase(connection, orders, ERASED)
    message_erasure.erase(connection, ids, ERASED)
    review_erasure.erase(connection, ids, ERASED)


def _mails(s: Settings) -> dict[str, list[Path]]:
    """The Maildir's files by their name, without what a mail program or a writer that died has put behind it."""
    found: dict[str, list[Path]] = defaultdict(list)
    for part in ("new", "cur", "tmp"):
        with suppress(FileNotFoundError):
            for entry in os.scandir(s.mail_dir / part):
                found[entry.name.partition(".eml")[0] + ".eml"].append(Path(entry.path))
    return found


def _delete_leftovers(s: Settings) -> None:
    """Labels that a process began to write before it died. Several machines may share the folder: its own clock counts."""
    with suppress(FileNotFoundError), _FILES:
        with NamedTemporaryFile(dir=s.label_dir, prefix=".clock-", suffix=".tmp") as probe:
            now = os.fstat(probe.fileno()).st_mtime
        for entry in os.scandir(s.label_dir):
            if entry.name.startswith(".") and entry.name.endswith(".tmp") and entry.stat().st_mtime < now - _LEFT_SECONDS:
                Path(entry.path).unlink(missing_ok=True)


def _delete_files(order_ids: Sequence[str], s: Settings, mails: dict[str, list[Path]]) -> None:
    with _FILES:
        for order_id in order_ids:
            for path in _files(order_id, s, mails):
                path.unlink(missing_ok=True)


def _files(order_id: str, s: Settings, mails: dict[str, list[Path]]) -> Iterator[Path]:
    label, *before = label_paths(s.label_dir, order_id)
    yield label
    yield from (path for path in before if is_spelled_so(path))
    for kind in Kind:
        for name in mail_names(order_id, kind):
            yield from mails.get(name, ())
