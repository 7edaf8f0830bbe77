"""What is measured."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from msrrec.config.base import Config


class EvaluateConfig(Config):
    """What is measured."""

    folders: ClassVar[frozenset[str]] = frozenset({"gate", "bertscore_model", "gptscore_model"})

    split: Literal["validation", "test"] = "test"
    """Choose settings on validation; report test."""
    num_users: int = Field(default=0, ge=0)
    """Users evaluated, the first of the split; 0 takes all."""
    permutation: int = Field(default=0, ge=0)
    """Another number than 0 shuffles every candidate list by it: how often the choices then change
    shows what they owe to positions."""
    negatives: Literal["frozen", "uniform", "popular", "category"] = "frozen"
    """Candidates beside the target: those of the dataset; or drawn anew, always the same ones:
    uniformly, by training purchases, or from the target's narrowest category with enough items."""
    num_negatives: int | None = Field(default=None, ge=1)
    """Size of candidate sets that are drawn anew, target left out; unset: the dataset's own."""
    gate: str | None = None
    """Folder of the same model's evaluation on validation: the study of fusion rules then has a
    gate fitted there."""
    recsaver_samples: int = Field(default=3, ge=2)
    """Rationales that recsaver-verified takes of each user, each of them verified."""
    bertscore_model: str | None = None
    """A name that bert-score knows, such as microsoft/deberta-xlarge-mnli, or a folder; unset: no
    BERTScore."""
    bertscore_layers: int | None = Field(default=None, ge=1)
    """Layer whose output BERTScore compares; a folder needs it."""
    gptscore_model: str | None = None
    """Causal language model of gptscore_logprob: a folder, a hub name or ``embedded``; unset: no
    such score."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        if self.num_negatives is not None and self.negatives == "frozen":
            raise ValueError(
                f"num_negatives ({self.num_negatives}) needs negatives=uniform, popular or category"
            )
        return self
