"""OpenTelemetry: the way of a request through proxy, fusion and engines, as spans of one trace."""

from typing import Any

from ray.serve.schema import TracingConfig

from msrrec.config import ServeConfig


def export_spans() -> list[Any]:
    """What Ray Serve gives its spans to in each of its processes.

    The variables ``OTEL_EXPORTER_OTLP_*`` say where they go, by default to port 4318 of the same
    machine; ``OTEL_SERVICE_NAME`` names the service.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def tracing_config(settings: ServeConfig) -> TracingConfig:
    """How Ray Serve traces requests; a client's ``traceparent`` decides before the share does."""
    return TracingConfig(
        enabled=settings.trace_share > 0,
        exporter_import_path=f"{__name__}:{export_spans.__name__}",
        sampling_ratio=settings.trace_share,
    )
