"""Deletes the files of erased customers in this machine's `VAR_DIR`: mails of the Maildir, and labels.

Every machine has a `VAR_DIR` of its own, and customers are erased on one of them. The others find out by the
names of their files which orders are erased.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import text

from saga.database import sync_engine
from saga.failpoints import failpoint
from shop.notifications.kinds import Kind
from shop.notifications.maildir import mail_names
from shop.orders.tries import number_of
from shop.runtime.files import has_exact_name
from shop.settings import Settings, settings
from shop.shipping.labels.stored import label_paths

log = logging.getLogger(__name__)

SWEEP_SECONDS = 6 * 3600
"""Interval between two searches for files of erased customers, in seconds."""
_LEFTOVER_SECONDS = 86_400
_FILES = failpoint("deleting customers' files")
_MAIL = re.compile(rf"\.({'|'.join(Kind)})(\.\d+)?\.eml.*", re.DOTALL)
_DIGEST = re.compile(r"~([0-9a-f]{24})")
# Messages that were sent after the erasure know nothing of the customer. They stay.
_ERASED = """
    SELECT o.id, o.content, (
        SELECT coalesce(jsonb_agg(jsonb_build_array(m.kind, m.try_number)), '[]')
        FROM outbox m WHERE m.order_id = o.id AND m.created_at > o.erased_at) AS later
    FROM customer_order o WHERE o.erased_at IS NOT NULL
"""
_BY_NAME = text(f"{_ERASED} AND o.id = ANY(CAST(:names AS text[]))")
# Names of ids that are not safe as names of files end with a digest of the id.
_BY_DIGEST = text(
    f"{_ERASED} AND left(encode(sha256(convert_to(o.id, 'UTF8')), 'hex'), 24) = ANY(CAST(:digests AS text[]))"
)

Mails = Mapping[str, Sequence[Path]]


@contextmanager
def deleting_files_of_erased_customers() -> Iterator[None]:
    """Searches this machine's `VAR_DIR` for files of erased customers, at once and every `SWEEP_SECONDS`, in
    a thread, while the body runs."""
    stopped = threading.Event()

    def sweep() -> None:
        while True:
            try:
                if count := delete_files_of_erased_customers():
                    log.info("the files of %d erased orders were deleted", count)
            except Exception as error:  # noqa: BLE001  (orders and requests must continue)
                log.warning(
                    "deleting the files of erased customers failed (%s); it is tried again later",
                    type(error).__name__,
                )
            if stopped.wait(SWEEP_SECONDS):
                return

    threading.Thread(target=sweep, name="files-of-erased-customers", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


def delete_files_of_erased_customers() -> int:
    """Deletes what this machine's `VAR_DIR` still has of orders that are erased. Returns the number of those
    orders. Must not be called in an event loop. Raises SQLAlchemyError and OSError."""
    s = settings()
    mails = find_mails(s)
    delete_leftovers(s)
    names = {_MAIL.sub("", name) for name in mails} | {path.stem for path in _labels(s)}
    if not names:
        return 0
    digests = [found[1] for name in names if (found := _DIGEST.search(name))]
    with sync_engine(s.database_url).connect() as connection:
        rows = list(connection.execute(_BY_NAME, {"names": sorted(names)}).mappings())
        if digests:
            rows += connection.execute(_BY_DIGEST, {"digests": digests}).mappings()
    return sum(_delete(row, s, mails, {(kind, number) for kind, number in row["later"]}) for row in rows)


def delete_files(rows: Sequence[Any], s: Settings, mails: Mails) -> None:
    """Deletes the files of these orders."""
    for row in rows:
        _delete(row, s, mails, frozenset())


def _delete(row: Any, s: Settings, mails: Mails, kept: set[tuple[str, int]] | frozenset[Any]) -> bool:
    with _FILES:
        found = list(_files(row["id"], s, mails, number_of(row["content"]), kept))
        for path in found:
            path.unlink(missing_ok=True)
    return bool(found)


def find_mails(s: Settings) -> dict[str, list[Path]]:
    """Returns the Maildir's files by name, without the suffixes
    of mail programs and of interrupted writers."""
    found: dict[str, list[Path]] = defaultdict(list)
    for part in ("new", "cur", "tmp"):
        with suppress(FileNotFoundError):
            for entry in os.scandir(s.mail_dir / part):
                found[entry.name.partition(".eml")[0] + ".eml"].append(Path(entry.path))
    return found


def _labels(s: Settings) -> list[Path]:
    with suppress(FileNotFoundError):
        return [Path(e.path) for e in os.scandir(s.label_dir) if e.name.endswith(".pdf")]
    return []


def delete_leftovers(s: Settings) -> None:
    """Deletes temporary label files of processes that died. Uses the file system's clock, as several machines
    may share the folder."""
    with suppress(FileNotFoundError), _FILES:
        with NamedTemporaryFile(dir=s.label_dir, prefix=".clock-", suffix=".tmp") as probe:
            now = os.fstat(probe.fileno()).st_mtime
        for entry in os.scandir(s.label_dir):
            if (
                entry.name.startswith(".")
                and entry.name.endswith(".tmp")
                and entry.stat().st_mtime < now - _LEFTOVER_SECONDS
            ):
                Path(entry.path).unlink(missing_ok=True)


def _files(
    order_id: str, s: Settings, mails: Mails, tries: int, kept: set[tuple[str, int]] | frozenset[Any]
) -> Iterator[Path]:
    label, *before = label_paths(s.label_dir, order_id)
    if label.exists():
        yield label
    yield from (path for path in before if has_exact_name(path))
    for kind, number in product(Kind, range(1, tries + 1)):
        if (kind, number) not in kept:
            for name in mail_names(order_id, kind, number):
                yield from mails.get(name, ())
