"""Sends the traces of ended orders, in a thread of a long-running process, so that it does not slow down runs
that process orders.

Traces are built from the journal, and the database records how far they have been sent: nothing is lost while
the collector is unavailable or when a process dies. One process at a time sends. What may not have arrived is
sent again with the same ids.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from sqlalchemy import Connection, NullPool, text

from saga.database import new_engine
from shop.monitoring.traces.spans import resource, spans_of, trace_id
from shop.orders.tries import TRY
from shop.settings import Settings, at

log = logging.getLogger(__name__)
_EVERY_SECONDS = 2.0
_RETRY_SECONDS = 10.0
_END_SECONDS = 5.0
_LOCK = 7_236_116
_PAGE = 200
_OVERLAP = timedelta(seconds=15)
"""Overlap with the previous reading: an outcome's time is before its commit."""
_OPTIONS = "-c statement_timeout=15000 -c jit=off"
_FIRST = text(
    "INSERT INTO trace_sending (id, sent_until) VALUES (1, now() - interval '1 hour') ON CONFLICT DO NOTHING"
)
# Orders that could not be sent for a day are skipped.
_SENT_UNTIL = text("SELECT greatest(sent_until, now() - interval '1 day') FROM trace_sending WHERE id = 1")
_SENT = text("UPDATE trace_sending SET sent_until = greatest(sent_until, :until) WHERE id = 1")
_ORDERS = text(
    "SELECT id, submitted_at, finished_at, outcome, failing_step, takeovers, flow_run_id, "
    "coalesce(CAST(content -> :try ->> 'number' AS int), 1) AS try_number FROM customer_order "
    "WHERE finished_at IS NOT NULL AND (finished_at, id) > (:after, :id) ORDER BY finished_at, id LIMIT :most"
).bindparams(**{"try": TRY})
_STEPS = text(
    "SELECT order_id, step, status, remark, attempts, begun_at, ended_at, undo_status, undo_attempts, "
    "undo_begun_at, undo_ended_at, left(undo_error ->> 'code', 100) AS undo_code FROM order_step "
    "WHERE order_id = ANY(CAST(:ids AS text[])) ORDER BY number"
)


def _session() -> requests.Session:
    """Returns a session that sends no login from `~/.netrc` and follows no redirect."""
    session = requests.Session()
    session.auth = lambda request: request
    session.max_redirects = 0
    return session


@contextmanager
def sending(database_url: str | None = None) -> Iterator[None]:
    """Sends traces from a database (None: the shop's) while the body runs, and briefly afterwards for the
    last orders, unless another process does."""
    sender = Sender(at(database_url))
    sender.start()
    try:
        yield
    finally:
        sender.stop()


class Sender:
    """Never raises: a failure to read or send is logged once, and retried."""

    def __init__(self, s: Settings, *, every_seconds: float = _EVERY_SECONDS) -> None:
        self._url, self._every = s.database_url, every_seconds
        self._exporter = OTLPSpanExporter(endpoint=s.traces.endpoint, session=_session())
        self._sampler = TraceIdRatioBased(s.traces.sampled_share)
        self._resource = resource()
        self._sent: dict[tuple[str, datetime], None] = {}
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends what has ended so far, within a few seconds."""
        self._stopped.set()
        self._thread.join(_END_SECONDS)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while True:
            last = self._stopped.is_set()
            try:
                engine = new_engine(self._url, poolclass=NullPool, arguments={"options": _OPTIONS})
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    if connection.execute(
                        text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}
                    ).scalar():
                        self._send_until_stopped(connection)
                        return
            except Exception as error:  # noqa: BLE001  (monitoring must not fail an order)
                self._report(type(getattr(error, "orig", error)).__name__)
            if last or self._stopped.wait(_RETRY_SECONDS):
                return

    def _send_until_stopped(self, connection: Connection) -> None:
        connection.execute(_FIRST)
        while True:
            last = self._stopped.is_set()
            sent = self.send(connection)
            if last:
                return
            self._stopped.wait(self._every if sent else _RETRY_SECONDS)

    def send(self, connection: Connection) -> bool:
        """Sends the orders that ended since the last call. Returns False if the collector refused them."""
        until: datetime = connection.execute(_SENT_UNTIL).scalar_one()
        after, last_id = until - _OVERLAP, ""
        self._sent = {key: None for key in self._sent if key[1] >= after}
        while orders := connection.execute(_ORDERS, {"after": after, "id": last_id, "most": _PAGE}).all():
            fresh = [order for order in orders if (order.id, order.finished_at) not in self._sent]
            if not self._export(self._spans(connection, fresh)):
                self._report("the collector does not accept them")
                return False
            after, last_id = orders[-1].finished_at, orders[-1].id
            if fresh:
                self._sent.update(dict.fromkeys((order.id, order.finished_at) for order in fresh))
                connection.execute(_SENT, {"until": after})
        self._failing = False
        return True

    def _spans(self, connection: Connection, orders: list[Any]) -> list[ReadableSpan]:
        wanted = [order for order in orders if self._sampled(order.id)]
        steps: dict[str, list[Any]] = defaultdict(list)
        if wanted:
            for row in connection.execute(_STEPS, {"ids": [order.id for order in wanted]}):
                steps[row.order_id].append(row)
        return [span for order in wanted for span in spans_of(order, steps[order.id], self._resource)]

    def _sampled(self, order_id: str) -> bool:
        return (
            self._sampler.should_sample(None, trace_id(order_id), "order").decision
            is Decision.RECORD_AND_SAMPLE
        )

    def _export(self, spans: list[ReadableSpan]) -> bool:
        return not spans or self._exporter.export(spans) is SpanExportResult.SUCCESS

    def _report(self, why: str) -> None:
        if not self._failing:
            log.warning("sending traces failed (%s); retrying, nothing is lost", why)
        self._failing = True
