"""Prometheus metrics of one ingress replica, served at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.fan_out import FanOutResult
from serve.http_models import Source
from serve.limits import AdmissionControl
from serve.sharing import SharedAnswers
from serve.version import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters since the replica started."""

    def __init__(
        self, admission: AdmissionControl, model: ServedModel, shared: SharedAnswers
    ) -> None:
        self._registry = registry = CollectorRegistry()
        served = Gauge("msrrec_model", "1 for what answers", ["name", "version"], registry=registry)
        served.labels(model.name, model.version).set(1)
        self.requests = Counter(
            "msrrec_requests", "Requests for recommendations", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "msrrec_request_seconds",
            "Seconds from request to whole answer, waiting included",
            ["mode"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.first_token_seconds = Histogram(
            "msrrec_first_token_seconds",
            "Seconds from streamed request to first delta",
            registry=registry,
            buckets=_SECONDS,
        )
        self.tokens = Counter(
            "msrrec_tokens", "Tokens of answered requests", ["kind"], registry=registry
        )
        self.agreement = Counter(
            "msrrec_agreement",
            "Answers by how the sides agree",
            ["agreement"],
            registry=registry,
        )
        self.invalid = Counter(
            "msrrec_invalid_outputs", "Outputs naming no candidate", ["side"], registry=registry
        )
        self.retries = Counter(
            "msrrec_engine_retries", "Requests whose engine died", ["side"], registry=registry
        )
        self.stream_errors = Counter(
            "msrrec_stream_errors", "Streams that ended in an error", ["status"], registry=registry
        )
        ongoing = Gauge("msrrec_ongoing_requests", "Requests in progress", registry=registry)
        ongoing.set_function(lambda: admission.ongoing)
        queued = Gauge("msrrec_queued_requests", "Requests waiting", registry=registry)
        queued.set_function(lambda: admission.queued)

        self.answers = Counter(
            "msrrec_answers",
            "Answers: live, joined to an equal request's, cached or stored",
            ["source"],
            registry=registry,
        )
        entries = Gauge("msrrec_cache_answers", "Answers in the cache", registry=registry)
        entries.set_function(lambda: len(shared))
        size = Gauge("msrrec_cache_bytes", "Bytes of the answers in the cache", registry=registry)
        size.set_function(lambda: shared.num_bytes)

    def count_answer(self, answer: FanOutResult, source: Source) -> None:
        """Count an answered request; its tokens and agreement count once, when it is computed."""
        self.answers.labels(source).inc()
        if source != "live":
            return
        self.agreement.labels(answer.decision.agreement).inc()
        self.tokens.labels("prompt").inc(answer.prompt_tokens)
        for side, output in answer.outputs.items():
            self.tokens.labels("completion").inc(output.num_tokens)
            if not output.is_valid:
                self.invalid.labels(side).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
