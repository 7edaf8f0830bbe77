"""Running what needs much memory on a node that has it, and not on the one that a command is on."""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec

from msrrec.cluster import cores_here, count_bundles, is_local, wait_for_room
from msrrec.errors import EngineError, MsrRecError, first_line
from msrrec.loading import count_parameters
from msrrec.models import ModelSource

logger = logging.getLogger(__name__)

GIB = 1 << 30
HERE_BYTES = 2 * GIB
"""What needs no more than this runs in the process itself, which spares seconds of a start."""

_SLACK = 1.2
"""Memory of a model at work as a multiple of its weights."""

P = ParamSpec("P")


def loaded_bytes(source: ModelSource, value_bytes: int) -> int:
    """Memory in bytes for a model that is loaded whole; 0 where its size can't be told.

    Args:
        source: The model.
        value_bytes: Bytes of each parameter, such as 2 in bfloat16.
    """
    return round((count_parameters(source) or 0) * value_bytes * _SLACK)


def run_with_memory(
    need_bytes: int,
    setting: str,
    instead: str,
    work: Callable[P, None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Do work where its memory is: here if it needs little, else as a Ray task on a fitting node.

    A local Ray whose node is too small gets the task nevertheless, after a warning.

    Args:
        need_bytes: Memory that the work needs.
        setting: The setting that asks for the work, in messages.
        instead: What else the user may do, in messages.
        work: The function, which other processes can import.
        args: Its arguments.
        kwargs: Its named arguments.

    Raises:
        ConfigError: If the cluster has no such node, after the time limit.
        EngineError: If the process of the task died, as for lack of memory.
        MsrRecError: What the work raised.
    """
    if need_bytes <= HERE_BYTES:
        work(*args, **kwargs)
        return
    import ray

    options = _reserve(need_bytes, setting, instead)
    try:
        # By default it would run in the room that a trial of Ray Tune has for itself.
        task = ray.remote(scheduling_strategy="DEFAULT", **options)(_on_all_cores)
        ray.get(task.remote(work, args, kwargs))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MsrRecError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"{setting}: its process died ({first_line(error)}); expected a node with "
            f"{need_bytes / GIB:.1f} GiB of free memory; start one, or {instead}"
        ) from error


def _on_all_cores(work: Callable[..., None], args: Any, kwargs: Any) -> None:
    """Work in a task, whose threads would else be as many as the one core that it reserves."""
    import torch  # seconds to import

    torch.set_num_threads(cores_here())
    work(*args, **kwargs)


def _reserve(need_bytes: int, setting: str, instead: str) -> dict[str, float]:
    """The Ray resources of a task, once there is room for them."""
    each = {"CPU": 1.0, "memory": float(need_bytes)}
    if is_local() and not count_bundles(each):
        logger.warning(
            "%s: needs about %.1f GiB of memory, more than Ray counts on this machine; it may be "
            "killed for it: %s where it is",
            *(setting, need_bytes / GIB, instead),
        )
        return {"num_cpus": 1, "max_retries": 0}
    wait_for_room(1, each, setting, instead)
    return {"num_cpus": 1, "memory": need_bytes, "max_retries": 1}
