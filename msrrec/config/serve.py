"""The online service."""

from pydantic import Field, model_validator

from msrrec.config.base import Config


class ServeConfig(Config):
    """The online service."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port."""
    api_key_env: str = "MSRREC_API_KEY"
    """Where this environment variable is set, requests need it as bearer token."""
    min_replicas: int = Field(default=1, ge=0)
    """Engines per side when idle."""
    max_replicas: int = Field(default=1, ge=1)
    """Engines per side under load."""
    share_engine: bool = False
    """One engine deployment for both sides, for small machines."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Requests in flight per fusion replica."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Requests waiting before clients get 503 with Retry-After."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds that a request may take; after them the client gets 504."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Larger requests get 413."""
    max_candidates: int = Field(default=100, ge=2)
    """More get 422."""

    @model_validator(mode="after")
    def _check(self) -> "ServeConfig":
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas ({low}) must not exceed max_replicas ({high})")
        return self
