"""OpenTelemetry: the way of a request through proxy, fusion and engines, as spans of one trace."""

import contextlib
from collections.abc import Iterable, Iterator

from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_HEADERS = (b"traceparent", b"tracestate")


def export_spans() -> list[SpanProcessor]:
    """What Ray Serve gives its spans to in each of its processes.

    The variables ``OTEL_EXPORTER_OTLP_*`` say where they go, by default to port 4318 of the same
    machine; ``OTEL_SERVICE_NAME`` names the service.
    """
    return [BatchSpanProcessor(OTLPSpanExporter())]


@contextlib.contextmanager
def client_trace(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
    """Spans that begin within the block belong to the trace that a request's headers name."""
    named = {key.decode(): value.decode("latin-1") for key, value in headers if key in _HEADERS}
    token = attach(TraceContextTextMapPropagator().extract(named))
    try:
        yield
    finally:
        detach(token)
