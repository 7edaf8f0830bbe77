"""The cluster."""

from pydantic import Field

from msrrec.config.base import Config


class RayConfig(Config):
    """The cluster."""

    address: str | None = None
    """Unset: the cluster of the job, or else a Ray of our own on this machine."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Cores of our own Ray."""
