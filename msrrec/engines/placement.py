"""Where models run: on GPUs or on processors, and the room in the cluster that they need.

A cluster whose GPUs start at zero shows none at first. So a model of more than ``LARGE`` parameters
always waits for GPUs on a cluster, unless the settings ask for processors; a smaller one goes where
the cluster is at that moment, with a line that says so.
"""

import logging
import math
from pathlib import Path

from msrrec.cluster import count_bundles, is_local, refuse_if_fixed, wait_for_room
from msrrec.config import InferenceConfig, TrainConfig
from msrrec.loading import count_parameters
from msrrec.models import ModelSource
from msrrec.weights import find_shards

logger = logging.getLogger(__name__)

LARGE = 1_000_000_000
"""Parameters from which a model is not put on a cluster's processors unasked."""


def engine_resources(
    config: InferenceConfig, count: int, setting: str, source: ModelSource
) -> dict[str, float]:
    """The Ray resources of each engine, once the cluster can hold all of them.

    Args:
        config: The section ``inference``: the GPUs of an engine, by itself or as vLLM's parallel
            sizes.
        count: Number of engines that run at once.
        setting: Name of the setting for that number.
        source: What each engine loads.

    Raises:
        ConfigError: If the cluster can't hold all engines, for which Ray would wait for ever.
    """
    gpus = _gpus_per_engine(config, source)
    each = {"GPU": float(gpus), "CPU": 1.0} if gpus else {"CPU": 1.0}
    is_open = gpus and config.gpus_per_engine is None
    instead = "run on processors with inference.gpus_per_engine=0" if is_open else ""
    wait_for_room(count, each, f"{setting}={count}", instead)
    return {"num_gpus": gpus, "num_cpus": 1} if gpus else {"num_cpus": 1}


def _gpus_per_engine(config: InferenceConfig, source: ModelSource) -> int:
    if config.gpus_per_engine is not None:
        return config.gpus_per_engine
    if not takes_gpu(source, "inference.gpus_per_engine=1"):
        return 0
    sizes = (config.vllm_kwargs.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
    return math.prod(map(int, sizes))


def takes_gpu(source: ModelSource, setting: str) -> bool:
    """Whether a model goes on GPUs where the settings leave it open.

    It does if there is a GPU, or if the model is large and the cluster may get one.

    Args:
        source: The model.
        setting: The setting and value that would wait for a GPU, for the log.
    """
    if count_bundles({"GPU": 1}):
        return True
    if is_local():
        return False
    if _is_large(source):
        return True
    logger.info(
        "%s runs on processors: the cluster has no GPU now; %s waits for one", source.name, setting
    )
    return False


def _is_large(source: ModelSource) -> bool:
    """Whether a model has more than ``LARGE`` parameters, or how many it has can't be told."""
    folder = Path(source.path)
    shards = list(find_shards(folder)) if folder.is_dir() else []
    if 0 < sum(shard.stat().st_size for shard in shards) < LARGE:  # a byte or more for each
        return False
    size = count_parameters(source)
    return size is None or size > LARGE


def trains_on_gpu(config: TrainConfig, source: ModelSource) -> bool:
    """Whether to train on GPUs.

    Raises:
        ConfigError: If the cluster never grows and is too small.
    """
    on_gpu = config.use_gpu
    if on_gpu is None:
        on_gpu = takes_gpu(source, "train.use_gpu=true")
    refuse_if_fixed(*_workers(config, on_gpu))
    return on_gpu


def wait_for_workers(config: TrainConfig, *, on_gpu: bool) -> None:
    """Return once the cluster can hold the training workers.

    Raises:
        ConfigError: If it can't, after the time limit.
    """
    is_open = on_gpu and config.use_gpu is None
    instead = "train on processors with train.use_gpu=false" if is_open else ""
    wait_for_room(*_workers(config, on_gpu), instead)


def _workers(config: TrainConfig, on_gpu: bool) -> tuple[int, dict[str, float], str]:
    """How many workers are needed at least, what each takes, and the setting that says so."""
    name = "num_workers" if config.min_workers is None else "min_workers"
    count = getattr(config, name)
    return count, {"GPU" if on_gpu else "CPU": 1.0}, f"train.{name}={count}"
