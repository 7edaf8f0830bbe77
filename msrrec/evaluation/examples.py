"""The examples of an evaluation, as its settings define them."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from msrrec.config import EvaluateConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.negatives import draw_candidates
from msrrec.data.partitions import Partitions
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.retrieved import load_honest_index, retrieve_candidates
from msrrec.schema import Example


def check_frozen(config: RunConfig, who: str) -> None:
    """Refuse other candidates than the dataset's own.

    Args:
        config: Section ``evaluate``.
        who: The beginning of a sentence that goes on with "the dataset's own candidates".

    Raises:
        ConfigError: If other candidates or another order than the dataset's are asked for.
    """
    if config.evaluate.permutation or config.evaluate.negatives != "frozen":
        raise ConfigError(
            f"evaluate.permutation={config.evaluate.permutation} and evaluate.negatives="
            f"{config.evaluate.negatives}: {who} the dataset's own candidates; expected 0 and "
            "frozen"
        )


def load_evaluation(folder: str, dataset: Dataset) -> EvaluationResult:
    """An evaluation's figures, if they are of this dataset.

    Raises:
        DataError: If they can't be read, or are of another dataset.
    """
    evaluated = EvaluationResult.load(folder)
    if evaluated.dataset.fingerprint != dataset.fingerprint:
        raise DataError(
            f"{folder}: evaluates {evaluated.dataset.path}; expected {dataset.path} as it "
            "is now; give the dataset that was evaluated"
        )
    return evaluated


def evaluated_examples(dataset: Dataset, settings: EvaluateConfig) -> list[Example]:
    """The first users of the split, with the candidates and order that the settings define.

    Raises:
        DataError: If the split has no examples.
    """
    return [e for part in partition_examples(dataset, settings).read() for e in part]


def partition_examples(dataset: Dataset, settings: EvaluateConfig) -> Partitions:
    """The same examples in partitions; of drawn negatives, the codes are held in memory.

    Raises:
        DataError: If the split has no examples.
    """
    if settings.negatives == "frozen":
        found = dataset.partitions(settings.split, settings.num_users)
    elif settings.negatives == "retrieved":
        found = retrieve_candidates(load_honest_index(dataset, settings), dataset, settings)
    else:
        drawn = draw_candidates(dataset, settings.split, settings.negatives, settings.num_negatives)
        found = drawn.limit(settings.num_users or drawn.num_examples)
    if not found.num_examples:
        raise DataError(
            f"{dataset.path}: the {settings.split} split has no examples; expected at least one"
        )
    seed = settings.permutation
    return Partitions(found.num_examples, lambda: (permute(part, seed) for part in found.read()))


def permute(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples with every candidate list shuffled; 0 leaves them in the frozen order."""
    if not seed:
        return list(examples)
    permuted = []
    for example in examples:
        candidates = list(example.candidates)
        Random(f"{seed}:{example.example_id}").shuffle(candidates)
        permuted.append(replace(example, candidates=tuple(candidates)))
    return permuted
