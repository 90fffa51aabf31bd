"""Reads the metrics from the database in a thread of its own, and caches them for a few seconds.

However many requests come, the database is read once per `KEPT_SECONDS`. A request waits at most
`PATIENCE_SECONDS` for a database that does not answer, and then reports that.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from sqlalchemy import NullPool, text

from saga.database import new_engine
from shop.monitoring.exposition.now import Now, read_now
from shop.monitoring.exposition.totals import Total, count_new, read_totals
from shop.settings import Settings

log = logging.getLogger(__name__)
KEPT_SECONDS = 5.0
PATIENCE_SECONDS = 4.0
_STALE_SECONDS = 60.0
"""Limits the age of values in seconds, while a reading of a large journal takes long."""
_OPTIONS = (
    "-c statement_timeout=60000 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=30000 -c jit=off"
)


@dataclass(frozen=True, slots=True)
class Read:
    """One reading."""

    at: float
    """Time of `time.monotonic()`."""
    seconds: float
    """Duration."""
    totals: list[Total]
    now: Now


class Reading:
    """Reads one database, for any number of threads."""

    def __init__(
        self,
        database_url: str,
        *,
        kept_seconds: float = KEPT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._url = Settings(DATABASE_URL=database_url).database_url
        self._kept, self._patience = kept_seconds, patience_seconds
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._last: Read | None = None
        self._failed_at: float | None = None
        self._reported = False

    def latest(self) -> Read | None:
        """Returns a reading from the cache, at most a minute old if reading takes long. None: the database
        does not answer."""
        now = time.monotonic()
        with self._lock:
            if self._last is not None and now - self._last.at < self._kept:
                return self._last
            if self._reader is None and self._failed_at is not None and now - self._failed_at < self._kept:
                return None
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, name="metrics", daemon=True)
                self._reader.start()
            reader = self._reader
        reader.join(self._patience)
        with self._lock:
            fresh = self._last is not None and time.monotonic() - self._last.at < _STALE_SECONDS
            return self._last if fresh and self._failed_at is None else None

    def _read(self) -> None:
        began = time.monotonic()
        found: Read | None = None
        try:
            engine = new_engine(self._url, poolclass=NullPool, arguments={"options": _OPTIONS})
            with engine.begin() as connection:
                count_new(connection)
            with (
                engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
                connection.begin(),
            ):
                connection.execute(_READ_ONLY)
                totals, now = read_totals(connection), read_now(connection)
            found = Read(time.monotonic(), time.monotonic() - began, totals, now)
        except Exception as error:  # noqa: BLE001  (reported as order_saga_database_up 0)
            if not self._reported:
                log.warning(
                    "metrics cannot be read from the database (%s); will retry",
                    type(getattr(error, "orig", error)).__name__,
                )
            self._reported = True
        with self._lock:
            self._reader = None
            self._failed_at = None if found else time.monotonic()
            if found:
                self._last, self._reported = found, False


_READ_ONLY = text("SET TRANSACTION READ ONLY")
