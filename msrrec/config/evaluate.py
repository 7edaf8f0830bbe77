"""Settings of the evaluation."""

from typing import ClassVar, Literal, get_args

from pydantic import Field, model_validator

from msrrec.config.base import Config

Intervention = Literal[
    "cut", "mistake", "paraphrase", "filler", "cited_removed", "random_removed", "shuffled"
]
"""A change to a model's own chain or to its prompt, see docs/evaluation.md."""
INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)


NUM_RETRIEVED = 20
"""Number of candidates that are retrieved unless a setting says otherwise."""


EXAMPLE_SETTINGS = (
    *("split", "num_users", "permutation", "negatives", "num_negatives"),
    *("index", "num_retrieved"),
)
"""Settings of ``evaluate`` that define the evaluated users and their candidates."""


class EvaluateConfig(Config):
    """Settings of the evaluation."""

    folders: ClassVar[frozenset[str]] = frozenset(
        {"gate", "index", "bertscore_model", "gptscore_model"}
    )

    split: Literal["validation", "test"] = "test"
    """Split to evaluate: choose settings on validation, report results on test."""
    num_users: int = Field(default=0, ge=0)
    """Number of users to evaluate, the first of the split; 0 takes all."""
    permutation: int = Field(default=0, ge=0)
    """Seed that shuffles every candidate list, to measure how much choices depend on positions; 0
    keeps the frozen order."""
    negatives: Literal["frozen", "uniform", "popular", "category", "retrieved"] = "frozen"
    """Where negatives come from: frozen takes the dataset's; uniform, popular (by training
    purchases) and category (the target's narrowest category with enough items) draw new ones,
    always the same for one dataset. With retrieved the candidates are what evaluate.index finds in
    the whole catalogue, and a target that it does not find is a miss of every system."""
    index: str | None = None
    """Folder made by ``msrrec index`` from the dataset's training purchases, for
    negatives=retrieved."""
    num_retrieved: int | None = Field(default=None, ge=2)
    """Number of candidates that are retrieved. Unset: 20."""
    num_negatives: int | None = Field(default=None, ge=1)
    """Number of negatives when new ones are drawn. Unset: as many as the dataset has."""
    gate: str | None = None
    """Folder of the same model's evaluation on validation; a gate fitted there, and the rule that
    was best there, are added to the study of fusion rules, the variant routed takes its threshold,
    and confidences the temperatures learned there. Nothing is taken from another model's. Unset:
    none of these."""
    interventions: tuple[Intervention, ...] = Field(default=INTERVENTIONS, min_length=1)
    """What ``msrrec faithfulness`` changes: the chain cut after each step, a mistake in the step
    that matches, other words, filler of the chain's length; the cited or random purchases left out,
    the history shuffled."""
    paraphraser: Literal["program", "teacher"] = "program"
    """Who writes the other words of the intervention ``paraphrase``: fixed substitutions, or the
    model of section ``teacher``, whose answers are kept and paid for once."""
    intervention_users: int = Field(default=200, ge=0)
    """Number of users whose chains are changed, the first with a whole chain; 0 takes all."""
    recsaver_samples: int = Field(default=3, ge=2)
    """Number of rationales that recsaver-verified generates and verifies per user."""
    bertscore_model: str | None = None
    """Model for BERTScore: a name that bert-score knows, such as microsoft/deberta-xlarge-mnli, a
    folder, or ``minilm`` from a Python package. Unset: no BERTScore."""
    bertscore_layers: int | None = Field(default=None, ge=1)
    """Number of the layer whose output BERTScore compares; required if bertscore_model is a folder
    or ``minilm``, whose last layer is 6."""
    gptscore_model: str | None = None
    """Causal language model for gptscore_logprob: a folder, a .gguf file, a hub name, ``embedded``
    or ``smollm2-135m``. Unset: not computed."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        if self.num_negatives is not None and self.negatives == "frozen":
            raise ValueError(
                f"num_negatives ({self.num_negatives}) needs negatives=uniform, popular or category"
            )
        if self.num_negatives is not None and self.negatives == "retrieved":
            raise ValueError(
                f"num_negatives ({self.num_negatives}) is not used with negatives=retrieved; set "
                "num_retrieved, the number of all candidates"
            )
        if (self.negatives == "retrieved") != (self.index is not None):
            raise ValueError(
                f"negatives={self.negatives} with index={self.index}; negatives=retrieved needs "
                "the folder of an index, and the others take none"
            )
        return self

    @property
    def retrieved_count(self) -> int:
        """Number of candidates that are retrieved."""
        return NUM_RETRIEVED if self.num_retrieved is None else self.num_retrieved
