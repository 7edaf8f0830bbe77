"""Starting Ray, and waiting for the nodes that work needs.

Ray is the submitted job's cluster, a named one, or a local one. ``ray.cluster_resources()`` does
not see nodes that an autoscaler has yet to start. So work that does not fit asks for its room with
a placement group, which every autoscaler of Ray answers to, and waits until a time limit.
"""

import contextlib
import json
import logging
import math
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from msrrec import storage
from msrrec.errors import ConfigError, EngineError, first_line

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1 << 30
"""Size of the object store of a local Ray; a cluster has its own."""

WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}
"""Environment of training's workers. Threads that wait leave the core to others. The C library
keeps memory that a step frees for the next one; giving it back and getting it again page by page
takes a twentieth of a step on processors."""

_SHOW_EVERY_S = 15.0
_LOCAL = "msrrec.local"
"""Label of the one node of a local Ray, which any of its processes can see."""

_wait_s: ContextVar[float] = ContextVar("wait_s", default=0.0)


def ask_for_token(address: str | None) -> None:
    """Have a local Ray that this process will start refuse whoever lacks a token of this run.

    Its ports listen on all addresses of the machine, and whoever reaches them could run code. Ray
    reads this when it is imported, so afterwards nothing is changed; neither is it where a cluster
    is used, or where the environment already says how Ray authenticates.

    Args:
        address: Of the cluster to use; None for that of the submitted job, else a local Ray.
    """
    is_ours = address is None and not _inside_a_job()
    if is_ours and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def ray_session(
    address: str | None = None, num_cpus: int | None = None, wait_s: float = 0.0
) -> Iterator[None]:
    """A context with Ray running; a session that is already open is used and left open.

    A local Ray stops with the context. In a cluster without a core, as
    one whose groups start at zero, it waits for the first one.

    Args:
        address: Address of a cluster; None for that of the submitted job, else a local Ray.
        num_cpus: Cores of a local Ray; None for all.
        wait_s: Seconds that ``wait_for_room`` waits within the context; 0 refuses at once.

    Raises:
        ConfigError: If the cluster has no core, and got none in time.
        EngineError: If the named cluster does not answer, or Ray can't be started here.
    """
    # Seconds between Ray Train's looks for a checkpoint; the default of 2 s delays every report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray  # half a second to import

    limit = _wait_s.set(wait_s)
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            with _own_sigterm():
                _connect(address, num_cpus)
            quiet_ray_data()
            wait_for_room(1, {"CPU": 1}, "Ray's tasks")
        yield
    finally:
        _wait_s.reset(limit)
        if is_ours:
            ray.shutdown()


def wait_for_room(count: int, each: Mapping[str, float], setting: str, instead: str = "") -> None:
    """Return once the cluster's nodes can hold some bundles of resources side by side.

    Room that others use counts: Ray itself queues for it. Where nodes are missing, the bundles are
    requested of the autoscaler. A local Ray never grows, so there it is decided at once.

    Args:
        count: Number of bundles.
        each: Resources of each bundle, such as ``{"GPU": 1}``; a bundle lies on one node.
        setting: What asks for them, in messages: a setting and its value.
        instead: What else the user may do, for the error.

    Raises:
        ConfigError: If there is no such room, after the time limit of the session.
    """
    if count_bundles(each) >= count:
        return
    limit_s = 0.0 if is_local() else _wait_s.get()
    if limit_s <= 0 or not _request_room(count, each, setting, limit_s):
        raise ConfigError(_explain(count, each, setting, limit_s, instead))


def refuse_if_fixed(count: int, each: Mapping[str, float], setting: str) -> None:
    """Refuse at once what a cluster that never grows can't hold; see ``wait_for_room``.

    Raises:
        ConfigError: If Ray is local or waiting is turned off, and there is no such room.
    """
    if is_local() or _wait_s.get() <= 0:
        wait_for_room(count, each, setting)


def count_bundles(each: Mapping[str, float]) -> int:
    """How many bundles of resources the living nodes can hold side by side, used ones included."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(math.floor(node.get(kind, 0) / amount) for kind, amount in each.items() if amount)
        for node in nodes
    )


def is_local() -> bool:
    """Whether the running Ray is one that this project started on this machine."""
    import ray

    return any(_LOCAL in node.get("Labels", {}) for node in ray.nodes())


def cores_here() -> int:
    """The cores of this process's node, or those that Ray counts if fewer, as in a container."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    counted = next(n["Resources"].get("CPU", 1) for n in ray.nodes() if n["NodeID"] == here)
    return max(1, min(int(counted), os.cpu_count() or 1))


def submission_id() -> str | None:
    """The id of the submitted job that this process belongs to; None outside one."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def _request_room(count: int, each: Mapping[str, float], setting: str, limit_s: float) -> bool:
    """Ask the autoscaler for bundles and wait; whether they came. None stays reserved."""
    from ray.util import placement_group, remove_placement_group

    group, begin = placement_group([dict(each)] * count), time.monotonic()
    passed_s = shown_s = 0.0
    try:
        while passed_s < limit_s:
            if passed_s >= shown_s:
                shown_s += _SHOW_EVERY_S
                logger.info(
                    "%s: waiting for %d × %s; the cluster has %d; %.0f s so far, up to %.0f s",
                    *(setting, count, _describe(each), count_bundles(each), passed_s, limit_s),
                )
            if group.wait(min(1.0, limit_s - passed_s)):  # signals are seen between two waits
                return True
            passed_s = time.monotonic() - begin
        return False
    finally:
        remove_placement_group(group)


def _explain(
    count: int, each: Mapping[str, float], setting: str, limit_s: float, instead: str
) -> str:
    """The sentence about room that is not there."""
    waited = f" after {limit_s:.0f} s (ray.wait_s)" if limit_s > 0 else ""
    return (
        f"{setting}: the Ray cluster has room for {count_bundles(each)} × {_describe(each)}"
        f"{waited}; expected {count}; ask for less, or start such nodes"
        f"{f', or {instead}' if instead else ''}"
    )


def _describe(each: Mapping[str, float]) -> str:
    """A bundle in words, such as ``GPU`` or ``(8 GPU + 1 CPU)``."""
    parts = [_amount(kind, amount) for kind, amount in each.items() if amount]
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"


def _amount(kind: str, amount: float) -> str:
    if kind == "memory":
        return f"{amount / 2**30:.1f} GiB of memory"
    return kind if amount == 1 else f"{amount:g} {kind}"


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the process's handler of SIGTERM, in whose place Ray puts ones that end it at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


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

    # Ray's workers yield to all other processes by default, so a busy machine starves them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,  # Ray Train asks the dashboard whether its controller lives
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            labels={_LOCAL: "true"},
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
