"""Writing the trained model's folder: adapter, merged model, metrics, and last its config.

The folder counts as a finished model once ``config.json`` exists.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from msrrec import storage
from msrrec.engines.memory import loaded_bytes, run_with_memory
from msrrec.errors import DataError
from msrrec.loading import load_causal
from msrrec.models import MODEL_CONFIG, ModelSettings, ModelSource, read_settings, write_settings
from msrrec.training.checkpoint import MetricsRow, write_metrics
from msrrec.training.live import EVENTS
from msrrec.training.merging import (
    check_logits,
    comparison_prompt,
    compute_logits,
    merge_adapter,
)
from msrrec.training.model import Dtype, load_base, load_tokenizer, weight_dtype

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_FILES = ("adapter_config.json", "adapter_model.safetensors")


def begin_folder(out: str) -> str:
    """The output folder of a new or resumed run.

    A finished run in it is deleted; an unfinished one keeps its checkpoints.

    Raises:
        DataError: If it holds a model of another kind.
    """
    folder = storage.absolute(out)
    if storage.exists(storage.join(folder, MODEL_CONFIG)):
        if read_settings(folder) is None:
            raise DataError(f"{folder}: holds a model that is not ours; choose another --out")
        storage.delete_file(storage.join(folder, MODEL_CONFIG))  # it no longer looks finished
        for name in ("adapter", "merged", CHECKPOINTS, EVENTS):
            storage.delete_folder(storage.join(folder, name))
    storage.make_folder(folder)
    return folder


def export_model(
    folder: str,
    checkpoint: str,
    rows: list[MetricsRow],
    source: ModelSource,
    dtype: Dtype,
    settings: ModelSettings,
    *,
    merged: bool,
    on_gpu: bool,
) -> None:
    """Write the trained model; every part is renamed into place, ``config.json`` last.

    Args:
        folder: From ``begin_folder``.
        checkpoint: The checkpoint to export.
        rows: All metrics of the run.
        source: The base model.
        dtype: Data type of the merged weights, as configured.
        settings: For ``config.json``.
        merged: Whether to also write base and adapter merged into one model.
        on_gpu: Whether training ran on GPUs, which decides what ``dtype=auto`` means.

    Raises:
        ModelError: If the merged model is not the trained one.
    """
    tokenizer = load_tokenizer(source)
    place = storage.join(folder, "adapter")
    with storage.built_folder(place, ("*",), last=_FILES[0]) as adapter:
        for name in _FILES:
            storage.copy_file(storage.join(checkpoint, name), storage.join(adapter, name))
        tokenizer.save_pretrained(adapter)
    if merged:
        run_with_memory(
            loaded_bytes(source, weight_dtype(dtype, on_gpu=on_gpu).itemsize),
            "train.export_merged=true",
            "leave the merged model out with train.export_merged=false",
            merge_into,
            storage.join(folder, "merged"),
            checkpoint,
            source,
            dtype,
            on_gpu=on_gpu,
        )
    write_metrics(folder, rows)
    write_settings(folder, settings)
    logger.info("train: wrote %s", folder)


def merge_into(
    place: str, checkpoint: str, source: ModelSource, dtype: Dtype, *, on_gpu: bool
) -> None:
    """Write base and adapter as one model into a folder, which is renamed into place.

    Args:
        place: The folder.
        checkpoint: Folder of the adapter.
        source: The base model.
        dtype: Data type of the merged weights, as configured.
        on_gpu: Whether training ran on GPUs, which decides what ``dtype=auto`` means.

    Raises:
        ModelError: As ``write_merged``.
    """
    tokenizer = load_tokenizer(source)
    with storage.built_folder(place, ("*",), last=MODEL_CONFIG) as aside:
        base = load_base(source, dtype, on_gpu=on_gpu)
        write_merged(Path(aside), base, source, checkpoint, tokenizer)


def write_merged(
    aside: Path, base: Any, source: ModelSource, checkpoint: str, tokenizer: Any
) -> None:
    """Write base and adapter as one model, and read it back to see that it is the trained one.

    Args:
        aside: An empty folder.
        base: The model that was trained on, in the type that the merged weights are to have.
        source: Where it came from.
        checkpoint: Folder of the adapter.
        tokenizer: Is written beside the weights.

    Raises:
        ModelError: If the merged model computes something else than base and adapter.
    """
    ids = comparison_prompt(tokenizer, source.form)
    dtype = base.dtype
    model, expected = merge_adapter(base, checkpoint, ids)
    model.config.use_cache = True
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    del base, model  # so that two models never stand in memory
    written = load_causal(replace(source, path=str(aside), revision=None), dtype=dtype)
    check_logits(compute_logits(written, ids), expected, dtype, checkpoint)
