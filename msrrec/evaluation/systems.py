"""The identity of a system: a stable id, its kind, its label, and its row in the paper.

Labels are for readers and may be anything; code compares only ids and rows. The paper's figures
stand beside a system only where ``paper_row`` says so:

- MSR-Rec and its backbone decode freely in the paper, so constrained ones stand for no row.
- ``sasrec-binary`` stands for SASRec: its loss is that of SASRec's authors (Kang and McAuley 2018,
  Eq. 7). ``sasrec`` has the softmax over all items and a line of its own.
- ``tallrec-gen`` stands for TALLRec, as only a system that writes can have the paper's ValidRatio
  of .98, and ``llara`` with its curriculum for LLaRA. Untrained and partial ones stand for none.
- The teacher, zero-shot, stands for DeepSeek-R1, the paper's teacher, and ``recsaver`` with one
  plain request for RecSAVER; which model was asked is in the label.
"""

from collections.abc import Sequence
from typing import Literal

from msrrec.baselines import BASELINES
from msrrec.evaluation.document import Result
from msrrec.models import ModelSource, read_arm, read_settings

MSR_REC = "MSR-Rec (8B)"
WITHOUT_REASONING = "MSR-Rec w/o reason"
BACKBONE = "Llama3 (8B)"
TEACHER = "DeepSeek-R1 (671B)"
RECSAVER = "RecSAVER (671B)"

SystemKind = Literal["baseline", "file", "api", "base", "trained"]
KINDS: tuple[SystemKind, ...] = ("baseline", "file", "api", "base", "trained")


class SystemId(Result):
    """One system of a comparison."""

    id: str
    """Such as ``msrrec``, ``backbone-constrained`` or a baseline's name; the same in every run."""
    kind: SystemKind
    """A baseline, a file of predictions, a model behind an API, a base model, or a trained one."""
    label: str
    """Name of the system in tables."""
    paper_row: str | None
    """The row of the paper's tables that it corresponds to; None for no row."""


def identify_baseline(name: str) -> SystemId:
    """The identity of a baseline."""
    entry = BASELINES[name]
    return SystemId(id=name, kind=entry.kind, label=name, paper_row=entry.paper_row)


def identify_file(name: str) -> SystemId:
    """The identity of a system whose choices come from a file."""
    return SystemId(id="file", kind="file", label=f"{name} (file)", paper_row=None)


def identify_model(
    source: ModelSource,
    model_dir: str,
    label: str | None,
    *,
    constrained: bool,
    variants: Sequence[str] = (),
) -> SystemId:
    """The identity of a base model, or of one that ``msrrec train`` wrote.

    Args:
        source: The weights; only a trained model has a domain.
        model_dir: Folder or hub name of the model.
        label: Name of the system in tables; None for the model's own name.
        constrained: Whether its answers are constrained to candidates.
        variants: What is read of its outputs; one trained on chains that answers directly is a
            control.
    """
    kind: SystemKind = "base" if source.domain is None else "trained"
    name, row = ("backbone", BACKBONE) if kind == "base" else _name_trained(model_dir, variants)
    return SystemId(
        id=f"{name}-constrained" if constrained else name,
        kind=kind,
        label=label or source.name,
        paper_row=None if constrained else row,
    )


def _name_trained(model_dir: str, variants: Sequence[str]) -> tuple[str, str | None]:
    """The id of a trained model, and its row in the paper, which controls beside *w/o* lack."""
    settings = read_settings(model_dir)
    arm = "chain" if settings is None else read_arm(settings)
    if arm == "none":
        return "msrrec-without-reasoning", WITHOUT_REASONING
    if arm != "chain":
        return f"msrrec-{arm}", None
    if "routed" in variants and "fused" not in variants:
        return "msrrec-routed", None
    return ("msrrec-direct", None) if tuple(variants) == ("direct",) else ("msrrec", MSR_REC)
