"""A collector of traces on a real socket (OTLP over HTTP),
which reads what comes as the specification's own messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Span:
    """As it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    begun: int
    ended: int
    status: int
    attributes: dict[str, Any]
    service: str


@dataclass
class Collector:
    """`answer` is the status that it gives; what it does not take it does not keep."""

    url: str = ""
    answer: int = 200
    requests: int = 0
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def of(self, order_id: str) -> list[Span]:
        return [span for span in self.spans if span.attributes.get("order_saga.order_id") == order_id]


@contextmanager
def collector() -> Iterator[Collector]:
    """At `url`."""
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collected.requests += 1
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            status = collected.answer if right else 404
            if status == 200:
                collected.bodies.append(body)
                collected.spans.extend(_spans(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collected.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _spans(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {
                    each.key: getattr(each.value, str(each.value.WhichOneof("value")))
                    for each in span.attributes
                }
                times = (span.start_time_unix_nano, span.end_time_unix_nano)
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                yield Span(span.name, *ids, *times, span.status.code, attributes, service)
