"""Sends the traces of ended orders, in a thread of a long-running process, so that it does not slow down runs
that process orders.

Traces are built from the journal, and the database records how far they have been sent: nothing is lost while
the collector is unavailable or when a process dies. One process at a time sends. What may not have arrived is
sent again with the same ids, which are derived from the order's id. There is one trace per order, whichever
workers processed it; each try of an order has spans of its own in it. Attributes contain no customer data.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from sqlalchemy import Connection, NullPool, text

from saga.database import new_engine
from shop.monitoring.error_codes import REFUSALS
from shop.orders.outcomes import Outcome
from shop.orders.tries import TRY, marked
from shop.settings import Settings, at

_SCOPE = InstrumentationScope("order-saga")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ORDER = "order"


def trace_id(order_id: str) -> int:
    """Returns the trace id, derived from the order id: the same in every process."""
    return int.from_bytes(hashlib.sha256(f"order-saga\0{order_id}".encode()).digest()[:16], "big")


def span_id(order_id: str, name: str, try_number: int = 1) -> int:
    """Returns the span id of the order (`order`), of a step, or of a compensation (`undo` and the step), in
    this try."""
    seed = f"order-saga\0{order_id}\0{marked(name, try_number)}"
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")


def resource() -> Resource:
    """Returns the OpenTelemetry resource: `order-saga`, unless `OTEL_SERVICE_NAME` or
    `OTEL_RESOURCE_ATTRIBUTES` is set."""
    return Resource({"service.name": "order-saga"}).merge(OTELResourceDetector().detect())


def spans_of(order: Any, steps: Sequence[Any], sent_as: Resource) -> Iterator[ReadableSpan]:
    """Yields the span of the order; below it, one for each step that ended and each compensation."""
    attention = order.outcome == Outcome.NEEDS_ATTENTION
    attributes = {
        "order_saga.outcome": order.outcome,
        "order_saga.failing_step": order.failing_step,
        "order_saga.takeovers": order.takeovers,
        "order_saga.try": order.try_number if order.try_number > 1 else None,
        "prefect.flow_run.id": order.flow_run_id,
    }
    error = order.outcome if attention else None
    yield _span(order, ORDER, order.submitted_at, order.finished_at, attributes, sent_as, error)
    for step in steps:
        if step.ended_at is not None:
            refused = step.status != "done" and step.remark in REFUSALS
            failed = step.remark if step.status == "failed" else None
            attributes = {
                "order_saga.step": step.step,
                "order_saga.result": "refused" if refused else step.status,
                "order_saga.attempts": step.attempts,
                "error.type": failed,
            }
            error = None if refused else failed
            yield _span(order, step.step, step.begun_at, step.ended_at, attributes, sent_as, error)
        if step.undo_ended_at is not None:
            error = (step.undo_code or "unknown") if step.undo_status == "failed" else None
            attributes = {
                "order_saga.step": step.step,
                "order_saga.compensation": True,
                "order_saga.result": step.undo_status,
                "order_saga.attempts": step.undo_attempts,
                "error.type": error,
            }
            name, begun, ended = f"undo {step.step}", step.undo_begun_at, step.undo_ended_at
            yield _span(order, name, begun, ended, attributes, sent_as, error)


def _span(  # noqa: PLR0917
    order: Any,
    name: str,
    begun: datetime,
    ended: datetime,
    attributes: dict[str, Any],
    sent_as: Resource,
    error: str | None,
) -> ReadableSpan:
    order_id, number = order.id, order.try_number
    trace, root = trace_id(order_id), span_id(order_id, ORDER, number)
    return ReadableSpan(
        name,
        context=SpanContext(
            trace,
            span_id(order_id, name, number),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        ),
        parent=None
        if name == ORDER
        else SpanContext(trace, root, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
        resource=sent_as,
        attributes={
            "order_saga.order_id": order_id,
            **{key: value for key, value in attributes.items() if value is not None},
        },
        kind=SpanKind.CONSUMER if name == ORDER else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
        start_time=_nanoseconds(begun),
        end_time=max(_nanoseconds(begun), _nanoseconds(ended)),
        instrumentation_scope=_SCOPE,
    )


def _nanoseconds(time: datetime) -> int:
    since = time - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


log = logging.getLogger(__name__)
_EVERY_SECONDS = 2.0
_RETRY_SECONDS = 10.0
_END_SECONDS = 2.0
"""Limits the time for sending the last traces, in seconds: less than `deployments.worker` gives a process to
exit, because the end of the process is recorded afterwards."""
_LOCK = 7_236_116
"""The advisory lock of the process that sends: held as long as it runs."""
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
            spans = self._spans(connection, fresh)
            if spans and self._exporter.export(spans) is not SpanExportResult.SUCCESS:
                self._report("the collector does not accept them")
                return False
            after, last_id = orders[-1].finished_at, orders[-1].id
            if fresh:
                self._sent.update(dict.fromkeys((order.id, order.finished_at) for order in fresh))
                connection.execute(_SENT, {"until": after})
        self._failing = False
        return True

    def _spans(self, connection: Connection, orders: list[Any]) -> list[ReadableSpan]:
        samples = self._sampler.should_sample
        kept = Decision.RECORD_AND_SAMPLE
        wanted = [o for o in orders if samples(None, trace_id(o.id), "order").decision is kept]
        steps: dict[str, list[Any]] = defaultdict(list)
        if wanted:
            for row in connection.execute(_STEPS, {"ids": [order.id for order in wanted]}):
                steps[row.order_id].append(row)
        return [span for order in wanted for span in spans_of(order, steps[order.id], self._resource)]

    def _report(self, why: str) -> None:
        if not self._failing:
            log.warning("sending traces failed (%s); retrying, nothing is lost", why)
        self._failing = True
