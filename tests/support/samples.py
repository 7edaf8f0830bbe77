"""Evaluations whose outputs a test says."""

from collections.abc import Callable
from pathlib import Path

from msrrec.data.dataset import Dataset
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from tests.support.results import evaluation_result, system_id, variant_result


def output(
    index: int | None,
    perplexity: float | None = 2.0,
    of_output: float = 2.0,
    num_tokens: int = 10,
) -> SideOutput:
    return SideOutput("item", "", "", index, perplexity, num_tokens, perplexity_output=of_output)


def write_samples(
    folder: Path, dataset: Dataset, *samples: Callable[[int], SideOutput], temperature: float = 0.7
) -> str:
    """An evaluation whose n-th sample gives these outputs, by the slot of the target."""
    examples = dataset.examples("test")
    drawn = [
        [Prediction(e.example_id, sample(e.target_slot), 0, sample=n) for e in examples]
        for n, sample in enumerate(samples)
    ]
    lists = {example.example_id: example.candidates for example in examples}
    write_predictions(f"{folder}/predictions/item.parquet", drawn[0], lists)
    if len(drawn) > 1:
        # Further samples lie user by user, beside those of other sides, which choose the target.
        right = [SideOutput("user", "", "", example.target_slot, 1.01, 1) for example in examples]
        others = [Prediction(e.example_id, o, 0) for e, o in zip(examples, right, strict=True)]
        rows = [p for users in zip(others, *drawn[1:], strict=True) for p in users]
        write_predictions(f"{folder}/predictions/samples.parquet", rows, lists)
    result = evaluation_result(
        system_id("m", "trained"),
        {"item": variant_result()},
        num_users=len(examples),
        inference={"num_samples": len(samples), "temperature": temperature},
    )
    placed = result.dataset.model_copy(update={"path": dataset.path})
    result.model_copy(update={"dataset": placed}).save(str(folder))
    return str(folder)
