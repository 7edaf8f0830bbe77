"""What trainings and evaluations took: learning rates, tokens, and seconds where they are known.

A killed run that goes on records the seconds of its last part alone, so its seconds are unknown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msrrec import storage
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.study_results import ArmCost


@dataclass(frozen=True)
class TrainingFacts:
    """What a finished training took.

    Attributes:
        learning_rate: Its peak learning rate.
        seconds: None where earlier, killed runs had done a part, or it is not recorded whether.
    """

    learning_rate: float
    seconds: float | None


def read_training(model_dir: str) -> TrainingFacts | None:
    """Facts from a model's run record; None without one."""
    path = storage.join(model_dir, storage.RECORD)
    if not storage.exists(path):
        return None
    record = storage.read_object(path)
    is_whole = record["summary"].get("steps_resumed") == 0
    rate = record["settings"]["train"]["learning_rate"]
    return TrainingFacts(rate, record["seconds"] if is_whole else None)


def evaluation_seconds(result: EvaluationResult) -> float | None:
    """Seconds of an evaluation; None where an earlier, killed run had made some of the outputs."""
    return result.speed.wall_s if result.speed and not result.speed.num_resumed else None


def measure_cost(results: Sequence[EvaluationResult]) -> ArmCost:
    """What an arm took, mean over the evaluations of its seeds."""
    models = [result.model for result in results if result.model]
    records = [found for model in models if (found := read_training(model.model_dir))]
    supervised = [model.supervised_tokens for model in models if model.supervised_tokens]
    last = [list(result.variants)[-1] for result in results]
    written = (r.generated_tokens.get(name) for r, name in zip(results, last, strict=True))
    return ArmCost(
        learning_rate=records[0].learning_rate if records else None,
        supervised_reasoning=mean_known(tokens.reasoning for tokens in supervised),
        supervised_recommendation=mean_known(tokens.recommendation for tokens in supervised),
        generated_per_user=mean_known(written),
        train_s=mean_known(record.seconds for record in records),
        evaluate_s=mean_known(map(evaluation_seconds, results)),
    )


def mean_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
