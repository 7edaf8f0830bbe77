"""Settings of the online service."""

from pydantic import Field, model_validator

from msrrec.config.base import Config


class ServeConfig(Config):
    """Settings of the online service."""

    host: str = "127.0.0.1"
    """Network address to listen on; 0.0.0.0 listens on all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port."""
    api_key_env: str = "MSRREC_API_KEY"
    """Name of an environment variable; if it is set, requests must carry its value as bearer
    token."""
    admin_key_env: str = "MSRREC_ADMIN_KEY"
    """Likewise, for changes of the catalogue (PUT and DELETE of items) in place of the former."""
    model_name: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the model in answers. Unset: the name of its folder, or of the model on a hub."""
    constrained: bool = True
    """Restrict the answer after the reasoning to the candidates, in place of
    inference.constrained, whose default is the paper's free decoding."""
    min_replicas: int = Field(default=1, ge=0)
    """Minimum number of engines per side, kept when idle."""
    max_replicas: int = Field(default=1, ge=1)
    """Maximum number of engines per side, under load."""
    share_engine: bool = False
    """Use one engine for both sides, for small machines."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Maximum number of requests in flight per fusion replica."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Maximum number of waiting requests; further clients get 503 with Retry-After."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds until the client gets 504."""
    cache_ttl_s: float = Field(default=300.0, ge=0)
    """Seconds for which an answer is given again to equal requests, as sampling is seeded; those
    that come while it is computed wait for it. 0 computes every request by itself."""
    cache_size: int = Field(default=10_000, ge=1)
    """Maximum number of answers that each fusion replica keeps."""
    cache_mib: int = Field(default=64, ge=1)
    """Their maximum size in MiB."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Maximum size of a request body in bytes; larger requests get 413."""
    max_candidates: int = Field(default=100, ge=2)
    """Maximum number of candidates per request; requests with more get 422."""

    @model_validator(mode="after")
    def _check(self) -> "ServeConfig":
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas ({low}) must not exceed max_replicas ({high})")
        return self
