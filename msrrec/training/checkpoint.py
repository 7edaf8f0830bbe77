"""Checkpoints: adapter, optimizer, step and the metrics so far.

Learning rate, order of examples and dropout follow from the step, so they are not saved. Each
checkpoint of a run is one folder per step, written under a temporary name and renamed. A checkpoint
with its final name is therefore complete even after a crash, and a run resumes from the latest. On
an object store it is written here and uploaded, its metrics last, and is complete if it has them.
"""

import io
import json
import os
import re
from pathlib import Path
from typing import Any, Final, TypedDict

import torch

from msrrec import storage
from msrrec.training.learner import Learner

METRICS = "metrics.jsonl"
VALIDATION_LOSS: Final = "validation_loss"
_TRAINER = "trainer.pt"
_NAME, _CHECKPOINT = "step-{:08d}", re.compile(r"step-\d+")
_KEPT = 2


class MetricsRow(TypedDict, total=False):
    """One line of ``metrics.jsonl``: a step, and means over the steps since the previous line."""

    step: int
    epoch: int
    learning_rate: float
    validation_loss: float
    loss: float | None
    loss_rea: float | None
    loss_rec: float | None
    tokens_per_s: float
    examples_per_s: float
    memory_bytes: int


def keep_checkpoint(run: str, learner: Learner, steps_done: int, rows: list[MetricsRow]) -> None:
    """Save a checkpoint in a run's folder and delete those that are no longer needed."""
    place = storage.join(run, _NAME.format(steps_done))
    with storage.built_folder(place, ("*",), last=METRICS) as aside:
        save_checkpoint(aside, learner, steps_done, rows)
        for file in Path(aside).iterdir():
            _to_disk(file)
    best = best_step(rows)
    for outdated in find_checkpoints(run)[:-_KEPT]:
        if steps_of(outdated) != best:
            storage.delete_folder(outdated)


def find_checkpoints(run: str) -> list[str]:
    """The complete checkpoints of a run, the latest last."""
    found = [name for name in storage.list_folders(run) if _CHECKPOINT.fullmatch(name)]
    places = [storage.join(run, name) for name in found]
    if not storage.is_object_store(run):
        return places
    return [place for place in places if storage.is_file(storage.join(place, METRICS))]


def steps_of(checkpoint: str) -> int:
    """Number of steps done when a checkpoint was written."""
    return int(storage.base_name(checkpoint).removeprefix("step-"))


def best_step(rows: list[MetricsRow]) -> int | None:
    """The first step with the lowest validation loss; None without validations."""
    losses = {row["step"]: row[VALIDATION_LOSS] for row in rows if VALIDATION_LOSS in row}
    return min(losses, key=lambda step: losses[step]) if losses else None


def is_stalled(rows: list[MetricsRow], patience: int) -> bool:
    """Whether the last ``patience`` validations brought no lower loss; False if it is 0."""
    steps = [row["step"] for row in rows if VALIDATION_LOSS in row]
    best = best_step(rows)
    return patience > 0 and best is not None and len(steps) - 1 - steps.index(best) >= patience


def remove_incomplete(run: str) -> None:
    """Delete incomplete checkpoints of runs that were killed while writing."""
    whole = {storage.base_name(checkpoint) for checkpoint in find_checkpoints(run)}
    for name in storage.list_folders(run):
        if name.startswith("step-") and name not in whole:
            storage.delete_folder(storage.join(run, name))


def save_checkpoint(folder: str, learner: Learner, steps_done: int, rows: list[MetricsRow]) -> None:
    """Write a checkpoint into an empty folder; its adapter files have PEFT's format."""
    learner.model.save_pretrained(folder, save_embedding_layers=False)
    state = {"optimizer": learner.optimizer.state_dict(), "steps_done": steps_done}
    torch.save(state, Path(folder) / _TRAINER)
    write_metrics(folder, rows)


def load_adapter(folder: str, model: Any) -> None:
    """Load the LoRA matrices of an adapter or a checkpoint into a PEFT model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load

    content = storage.read_bytes(storage.join(folder, "adapter_model.safetensors"))
    set_peft_model_state_dict(model, load(content))


def load_checkpoint(folder: str, learner: Learner) -> tuple[int, list[MetricsRow]]:
    """Load a checkpoint into a learner; the number of steps done and the metrics so far."""
    load_adapter(folder, learner.model)
    content = io.BytesIO(storage.read_bytes(storage.join(folder, _TRAINER)))
    state = torch.load(content, map_location=learner.device, weights_only=True)
    learner.optimizer.load_state_dict(state["optimizer"])
    return int(state["steps_done"]), read_metrics(folder)


def read_metrics(folder: str) -> list[MetricsRow]:
    """The lines of a folder's ``metrics.jsonl``."""
    text = storage.read_bytes(storage.join(folder, METRICS)).decode()
    return [json.loads(line) for line in text.splitlines()]


def write_metrics(folder: str, rows: list[MetricsRow]) -> None:
    """Write a folder's ``metrics.jsonl`` under a temporary name and rename it."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    storage.write_bytes(storage.join(folder, METRICS), lines.encode())


def _to_disk(file: Path) -> None:
    """Sync a file to disk before it is renamed, so that a power loss can't leave it empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
