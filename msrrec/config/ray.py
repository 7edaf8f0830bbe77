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
    wait_s: float = Field(default=600.0, ge=0)
    """Seconds to wait for nodes that a cluster's autoscaler has yet to start, as in groups that
    start at zero; 0 refuses at once. A local Ray never waits."""

    @property
    def session(self) -> tuple[str | None, int | None, float]:
        """The arguments of ``msrrec.cluster.ray_session``."""
        return self.address, self.num_cpus, self.wait_s
