"""Settings of the Ray cluster."""

from pydantic import Field

from msrrec.config.base import Config


class RayConfig(Config):
    """Settings of the Ray cluster."""

    address: str | None = None
    """Address of a Ray cluster to use. Unset: the cluster of the submitted job, else a local Ray is
    started."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Number of CPU cores for a local Ray. Unset: all."""
