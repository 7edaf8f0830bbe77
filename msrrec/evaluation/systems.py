"""Who a system is: a lasting id, its kind, its label, and the row of the paper that it stands for.

Labels are for readers and may be anything; ids and rows are what code compares. The paper's figures
stand beside a system only where ``paper_row`` says so:

- MSR-Rec and its backbone decode freely in the paper, so constrained ones stand for no row.
- ``sasrec-binary`` stands for SASRec: its loss is that of SASRec's authors (Kang and McAuley 2018,
  Eq. 7). ``sasrec`` has the softmax over all items and a line of its own.
- ``tallrec-gen`` stands for TALLRec, as only a system that writes can have the paper's ValidRatio
  of .98, and ``llara`` with its curriculum for LLaRA. Untrained and partial ones stand for none.
- The teacher, zero-shot, stands for DeepSeek-R1, the paper's teacher, and ``recsaver`` with one
  plain request for RecSAVER; which model was asked is in the label.
"""

from pathlib import Path
from typing import Literal

from msrrec.baselines import BASELINES
from msrrec.evaluation.document import Result
from msrrec.models import ModelSource, read_settings

MSR_REC = "MSR-Rec (8B)"
WITHOUT_REASONING = "MSR-Rec w/o reason"
BACKBONE = "Llama3 (8B)"
TEACHER = "DeepSeek-R1 (671B)"
RECSAVER = "RecSAVER (671B)"

SystemKind = Literal["baseline", "api", "base", "trained"]
KINDS: tuple[SystemKind, ...] = ("baseline", "api", "base", "trained")


class SystemId(Result):
    """One system of a comparison."""

    id: str
    """Such as ``msrrec``, ``backbone-constrained`` or a baseline's name; the same in every run."""
    kind: SystemKind
    """A baseline, a model behind an API, a base model, or one that was trained."""
    label: str
    """What tables call it."""
    paper_row: str | None
    """The row of the paper's tables that it stands for; None for no row."""


def identify_baseline(name: str) -> SystemId:
    """A baseline by its name."""
    entry = BASELINES[name]
    return SystemId(id=name, kind=entry.kind, label=name, paper_row=entry.paper_row)


def identify_model(
    source: ModelSource, model_dir: str, label: str | None, *, constrained: bool
) -> SystemId:
    """A base model, or one that ``msrrec train`` wrote.

    Args:
        source: Its weights; only a trained model has a domain.
        model_dir: Its folder or hub name.
        label: What tables call it; None takes the model's name.
        constrained: Whether its answers could only be candidates.
    """
    kind: SystemKind = "base" if source.domain is None else "trained"
    name, row = ("backbone", BACKBONE) if kind == "base" else _name_trained(model_dir)
    return SystemId(
        id=f"{name}-constrained" if constrained else name,
        kind=kind,
        label=label or source.name,
        paper_row=None if constrained else row,
    )


def _name_trained(model_dir: str) -> tuple[str, str]:
    settings = read_settings(Path(model_dir))
    if settings is None or settings.get("train", {}).get("reasoning", True):
        return "msrrec", MSR_REC
    return "msrrec-without-reasoning", WITHOUT_REASONING
