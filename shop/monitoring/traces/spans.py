"""Builds spans from an order's journal: one trace per order, whichever workers processed it. Each try of an
order has spans of its own in it.

Ids are derived from the order's id, so a trace that is sent twice is the same trace. Attributes contain no
customer data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shop.monitoring.error_codes import REFUSALS
from shop.orders.outcomes import Outcome
from shop.orders.tries import marked

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
    yield _span(
        order,
        ORDER,
        order.submitted_at,
        order.finished_at,
        attributes,
        sent_as,
        error=order.outcome if attention else None,
    )
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
            yield _span(
                order,
                step.step,
                step.begun_at,
                step.ended_at,
                attributes,
                sent_as,
                error=None if refused else failed,
            )
        if step.undo_ended_at is not None:
            failed = (step.undo_code or "unknown") if step.undo_status == "failed" else None
            attributes = {
                "order_saga.step": step.step,
                "order_saga.compensation": True,
                "order_saga.result": step.undo_status,
                "order_saga.attempts": step.undo_attempts,
                "error.type": failed,
            }
            yield _span(
                order,
                f"undo {step.step}",
                step.undo_begun_at,
                step.undo_ended_at,
                attributes,
                sent_as,
                error=failed,
            )


def _span(  # noqa: PLR0917
    order: Any,
    name: str,
    begun: datetime,
    ended: datetime,
    attributes: dict[str, Any],
    sent_as: Resource,
    *,
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
