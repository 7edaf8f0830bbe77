"""What a run needs to go on after a restart: adapter, optimizer, step, and the metrics so far.

Learning rate, order of examples and dropout follow from the step, so nothing else is kept.
"""

import json
from pathlib import Path
from typing import Any

import torch

from msrrec.training.learner import Learner

METRICS = "metrics.jsonl"
_TRAINER = "trainer.pt"

Row = dict[str, Any]
"""One line of ``metrics.jsonl``."""


def save_checkpoint(folder: str, learner: Learner, steps_done: int, rows: list[Row]) -> None:
    """Write a checkpoint into an empty folder; its adapter files are PEFT's own."""
    learner.model.save_pretrained(folder, save_embedding_layers=False)
    state = {"optimizer": learner.optimizer.state_dict(), "steps_done": steps_done}
    torch.save(state, Path(folder) / _TRAINER)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (Path(folder) / METRICS).write_text(lines, encoding="utf-8")


def load_checkpoint(folder: str, learner: Learner) -> tuple[int, list[Row]]:
    """Put a checkpoint into a learner; the steps done and the metrics so far."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(learner.model, load_file(Path(folder) / "adapter_model.safetensors"))
    state = torch.load(Path(folder) / _TRAINER, map_location=learner.device, weights_only=True)
    learner.optimizer.load_state_dict(state["optimizer"])
    return int(state["steps_done"]), read_metrics(folder)


def read_metrics(folder: str) -> list[Row]:
    """The lines of a folder's ``metrics.jsonl``."""
    text = (Path(folder) / METRICS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
