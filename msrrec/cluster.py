"""Starting Ray: the submitted job's cluster, a named one, or a local one."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from msrrec import storage
from msrrec.errors import EngineError, first_line

OBJECT_STORE_BYTES = 1 << 30
"""Size of the object store of a local Ray; a cluster has its own."""


@contextlib.contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """A context with Ray running; a session that is already open is used and left open.

    A local Ray listens on loopback only and stops with the context.

    Raises:
        EngineError: If the named cluster does not answer, or Ray can't be started here.
    """
    # Seconds between Ray Train's looks for a checkpoint; the default of 2 s delays every report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray  # half a second to import

    if ray.is_initialized():
        yield
        return
    _connect(address, num_cpus)
    quiet_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, num_cpus: int | None) -> None:
    import ray

    if address is None and not _inside_a_job():
        _start_own(num_cpus)
        return
    try:
        ray.init(address=address or "auto", logging_level=logging.ERROR)
    except ConnectionError as error:
        raise EngineError(
            f"ray.address={address}: no Ray cluster answers there; start one with "
            "`ray start --head`, or leave the address out"
        ) from error


def _start_own(num_cpus: int | None) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,  # Ray Train asks the dashboard whether its controller lives
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EngineError(
            f"Ray did not start on this machine ({first_line(error)}); see whether /tmp and "
            "/dev/shm have room, or name a running cluster with ray.address"
        ) from error


def _inside_a_job() -> bool:
    """Whether ``ray job submit`` started this process, so that the cluster's address is known."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def quiet_ray_data() -> None:
    """Turn off Ray Data's progress bars, which would overwrite our own progress lines."""
    from ray.data import DataContext

    for name in ("ray.data", "ray.data.context"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def ray_storage(path: str) -> dict[str, Any]:
    """The arguments of Ray Train's and Ray Tune's ``RunConfig`` for a folder, local or a URI."""
    filesystem, inner = storage.resolve(path)
    remote = {"storage_filesystem": filesystem} if storage.is_object_store(path) else {}
    return {"storage_path": inner, **remote}
