"""Settings of the online service."""

from typing import Literal

from pydantic import Field, model_validator

from msrrec.config.base import Config

MAX_CANDIDATES, MAX_BATCH_SIZE = 10_000, 1_000
"""More than any service takes: beyond them a body is refused before it is read to its end."""


class ServeConfig(Config):
    """Settings of the online service."""

    host: str = "127.0.0.1"
    """Network address to listen on; 0.0.0.0 listens on all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port."""
    api_key_env: str = "MSRREC_API_KEY"
    """Name of the environment variable with the API keys, separated by commas. If it is set,
    requests must carry one of them as bearer token."""
    api_keys_file: str | None = None
    """File of further API keys, one a line, at the same path on every node; it is read again within
    a second when it changes."""
    listen_without_key: bool = False
    """Answer other machines although there is no API key. Without it a service that has no key
    answers its own machine alone."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Maximum number of POST requests of each API key in a minute; they may come all at once, and
    further ones get 429. Each fusion replica counts its share of them. Unset: no limit."""
    requests_per_day: int | None = Field(default=None, ge=1)
    """Maximum number of POST requests of each API key in a day (UTC). Each fusion replica counts
    its share of them, from its own start. Unset: no limit."""
    admin_key_env: str = "MSRREC_ADMIN_KEY"
    """Name of the environment variable with the admin keys, separated by commas. If it is set,
    changes of the catalogue (PUT and DELETE of items) need one of them in place of an API key. A
    service that has API keys refuses rollouts without it."""
    model_name: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the model in answers. Unset: the name of its folder, or of the model on a hub."""
    constrained: bool = True
    """Restrict the answer after the reasoning to the candidates, in place of
    inference.constrained, whose default is the paper's free decoding."""
    min_replicas: int = Field(default=1, ge=0)
    """Minimum number of engines, kept when idle; of each side if share_engine is false."""
    max_replicas: int = Field(default=1, ge=1)
    """Maximum number of engines, under load; of each side if share_engine is false."""
    target_ongoing_requests: int | None = Field(default=None, ge=1)
    """Requests under way per engine beyond which another one is started. Unset: so many that the
    maximum is reached when half of all places are taken."""
    upscale_delay_s: float = Field(default=30.0, ge=0)
    """Seconds that the load must ask for more engines until they are started."""
    downscale_delay_s: float = Field(default=600.0, ge=0)
    """Seconds that the load must ask for fewer engines until some are stopped."""
    fusion_replicas: int = Field(default=1, ge=1)
    """Number of processes that answer HTTP and fuse; with two or more, the loss of one is not
    felt."""
    share_engine: bool = True
    """Whether an engine answers both sides, whose prompts begin alike, in one batch; else each side
    has engines of its own, which need twice the room."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Maximum number of requests in flight per fusion replica; fewer where deadlines are short."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Maximum number of waiting requests per fusion replica; further clients get 503 with
    Retry-After."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds after which a request without an answer gets 504; one that is expected to take longer
    gets 503 at once."""
    cache_ttl_s: float = Field(default=300.0, ge=0)
    """Seconds for which an answer is given again to equal requests, as sampling is seeded; those
    that come while it is computed wait for it. 0 computes every request by itself."""
    cache_size: int = Field(default=10_000, ge=1)
    """Maximum number of answers that each fusion replica keeps."""
    cache_mib: int = Field(default=64, ge=1)
    """Their maximum size in MiB."""
    log_format: Literal["text", "json"] = "text"
    """Lines of the service's log. With json each is an object, and every request and every output
    of an engine gets one, with the request's id."""
    trace_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests whose way through the service is sent to an OpenTelemetry collector;
    0 traces nothing. OTEL_EXPORTER_OTLP_ENDPOINT names the collector. A cluster that runs already
    needs Ray Serve's own variables instead."""
    engine_metrics: bool = True
    """Send vLLM's own metrics to Ray's, which each node exports for Prometheus."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Maximum size of a request body in bytes; larger requests get 413."""
    body_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds until a request body must be whole; a slower client gets 408."""
    max_candidates: int = Field(default=100, ge=2, le=MAX_CANDIDATES)
    """Maximum number of candidates per request; requests with more get 422."""
    max_batch_size: int = Field(default=100, ge=1, le=MAX_BATCH_SIZE)
    """Maximum number of requests in a batch; batches with more get 422."""

    @model_validator(mode="after")
    def _check(self) -> "ServeConfig":
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas ({low}) must not exceed max_replicas ({high})")
        return self
