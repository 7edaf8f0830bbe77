"""Prometheus metrics of the ingress, served at /metrics: all replicas and versions together."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

from serve.admission import AdmissionControl
from serve.fan_out import FanOutResult
from serve.http_models import Source
from serve.sharing import SharedAnswers
from serve.version import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PERPLEXITIES = (1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10, 20, 50)


class Metrics:
    """Counters since the replica started."""

    def __init__(
        self,
        admission: AdmissionControl,
        models: Iterable[tuple[str, ServedModel]],
        shared: SharedAnswers,
    ) -> None:
        """Begin at zero.

        Args:
            admission: Tells the requests at work.
            models: What answers, each with the domain that it is asked by; that of the default
                model is empty.
            shared: Tells the answers that are kept.
        """
        self._registry = registry = CollectorRegistry()
        _add_gauges(registry, admission, shared)
        _name_models(registry, models)
        counter = partial(Counter, registry=registry)
        seconds = partial(Histogram, registry=registry, buckets=_SECONDS)
        self.requests = counter("msrrec_requests", "Requests for recommendations", ["status"])
        self.seconds = seconds(
            "msrrec_request_seconds",
            "Seconds from request to whole answer, waiting included",
            ["mode", "source", "version"],
        )
        self.phase_seconds = seconds(
            "msrrec_phase_seconds",
            "Seconds of a computation's parts: queue, each side (or both asked at once), ranking",
            ["mode", "phase"],
        )
        self.first_token_seconds = seconds(
            "msrrec_first_token_seconds", "Seconds from streamed request to first delta"
        )
        self.perplexity = Histogram(
            "msrrec_perplexity",
            "Perplexity of the reasoning",
            ["side", "version"],
            registry=registry,
            buckets=_PERPLEXITIES,
        )
        self.outputs = counter("msrrec_outputs", "Outputs of computed answers", ["side", "version"])
        self.invalid = counter(
            "msrrec_invalid_outputs", "Outputs naming no candidate", ["side", "version"]
        )
        self.tokens = counter("msrrec_tokens", "Tokens of computed answers", ["kind", "version"])
        self.agreement = counter(
            "msrrec_agreement", "Computed answers by how the sides agree", ["agreement", "version"]
        )
        self.answers = counter(
            "msrrec_answers",
            "Answers: live, joined to an equal request's, cached, stored; or renewed, unasked",
            ["source", "version"],
        )
        self.refusals = counter(
            "msrrec_refusals", "Requests without an answer, by the type of their error", ["reason"]
        )
        self.retries = counter("msrrec_engine_retries", "Requests whose engine died", ["side"])
        self.stream_errors = counter(
            "msrrec_stream_errors", "Streams that ended in an error", ["status"]
        )

    def count_answer(
        self, answer: FanOutResult, source: Source | Literal["renewed"], version: str
    ) -> None:
        """Count an answer; its tokens and agreement count once, when it is computed.

        Args:
            answer: What was answered.
            source: Where it came from; ``renewed`` if it was made after a purchase, unasked.
            version: Of the model that computed it.
        """
        self.answers.labels(source, version).inc()
        if source not in ("live", "renewed"):
            return
        self.agreement.labels(answer.decision.agreement, version).inc()
        self.tokens.labels("prompt", version).inc(answer.prompt_tokens)
        for side, output in answer.outputs.items():
            self.outputs.labels(side, version).inc()
            if output.perplexity is not None:
                self.perplexity.labels(side, version).observe(output.perplexity)
            self.tokens.labels("completion", version).inc(output.num_tokens)
            if not output.is_valid:
                self.invalid.labels(side, version).inc()

    def families(self) -> list[Metric]:
        """All metrics as of now."""
        return list(self._registry.collect())


def _name_models(registry: CollectorRegistry, models: Iterable[tuple[str, ServedModel]]) -> None:
    labels = ["name", "version", "domain"]
    served = Gauge("msrrec_model", "1 for what answers", labels, registry=registry)
    for domain, model in models:
        served.labels(model.name, model.version, domain).set(1)


def _add_gauges(
    registry: CollectorRegistry,
    admission: AdmissionControl,
    shared: SharedAnswers,
) -> None:
    """Metrics that are read when they are asked for."""
    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("msrrec_ongoing_requests", "Requests in progress", lambda: admission.ongoing),
        ("msrrec_queued_requests", "Requests waiting", lambda: admission.queued),
        ("msrrec_cache_answers", "Answers in the cache", lambda: len(shared)),
        ("msrrec_cache_bytes", "Bytes of the answers in the cache", lambda: shared.num_bytes),
    )
    for name, meaning, read in gauges:
        Gauge(name, meaning, registry=registry).set_function(read)


class Collected(CollectorRegistry):
    """Metrics that were collected elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return self._families


def render(families: Iterable[Metric]) -> bytes:
    """Metrics in Prometheus' text format."""
    return generate_latest(Collected(families))


def merge(by_replica: Mapping[tuple[str, str], Iterable[Metric]]) -> list[Metric]:
    """The metrics of several replicas, told apart by the labels ``version`` and ``replica``.

    So the counters of each only go up, as Prometheus' ``rate`` needs it; its ``sum`` adds them.
    What has a version already keeps it, as that of an adapter.

    Args:
        by_replica: The metrics by version of the default model and id of the replica.
    """
    merged: dict[str, Metric] = {}
    for (version, replica), families in by_replica.items():
        told_apart = {"version": version, "replica": replica}
        for one in families:
            known = merged.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            known.samples += [
                sample._replace(labels={**told_apart, **sample.labels}) for sample in one.samples
            ]
    return list(merged.values())
