"""A teacher as a system of its own, over the API: the five-step chain zero-shot, or RecSAVER.

As a baseline, RecSAVER (Tsai et al. 2024) is the same model with a plain request to reason.

The questions are asked by ``synthesize`` on the evaluated split, so answers are journaled, resumed
and counted as there, and none is paid for twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msrrec import schema
from msrrec.config import RunConfig, for_references
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.evaluate import Evaluation, write_evaluation
from msrrec.reasoning.parsing import parse_answer, split_output, strip_thinking
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.synthesis.journal import JournalEntry
from msrrec.synthesis.pruning import judge
from msrrec.synthesis.synthesize import first_answers, synthesize

KIND = "api"

Prompt = Literal["chain", "plain"]


def evaluate_teacher(
    dataset: Dataset,
    out: str,
    answers: str,
    config: RunConfig,
    keys: Mapping[str, str],
    prompt: Prompt = "chain",
) -> Summary:
    """Ask for every evaluated user once, and write what was answered as predictions.

    Args:
        dataset: From ``msrrec prepare``.
        out: Folder of the evaluation.
        answers: Folder that ``synthesize`` writes; its journal is kept between runs.
        config: Sections ``teacher``, ``evaluate`` and ``model.answer_format``.
        keys: API keys by the names of their environment variables.
        prompt: chain for the five steps, plain for RecSAVER.

    Raises:
        ConfigError: If other candidates or another order than the dataset's are asked for.
        EngineError: If every teacher refuses or can't be reached.
    """
    check_frozen(config)
    asked = settings_for(config, prompt)
    synthesize(dataset, answers, asked, keys)
    found = first_answers(dataset, answers, asked)
    examples = dataset.examples(config.evaluate.split, config.evaluate.num_users)
    rows = [to_row(dataset, example, found.get(example.example_id)) for example in examples]
    name = name_model(found, config)
    title = f"RecSAVER ({name})" if prompt == "plain" else f"{name} zero-shot"
    evaluation = Evaluation(title, KIND, examples, {"full": rows})
    facts = {"calls": len(found), "unanswered": len(examples) - len(found)}
    return write_evaluation(evaluation, dataset, out, config, {"api": facts})


def check_frozen(config: RunConfig) -> None:
    """Refuse to ask about other candidates.

    Raises:
        ConfigError: If other candidates or another order than the dataset's are asked for.
    """
    if config.evaluate.permutation or config.evaluate.negatives != "frozen":
        raise ConfigError(
            f"evaluate.permutation={config.evaluate.permutation} and evaluate.negatives="
            f"{config.evaluate.negatives}: the teacher is only asked about the dataset's own "
            "candidates; expected 0 and frozen"
        )


def settings_for(config: RunConfig, prompt: Prompt) -> RunConfig:
    """What is asked of every evaluated user: one answer to a prompt of this kind."""
    asked = for_references(config)
    limits = {"tau_per_user": None, "tau_per_category": None}
    update = {"attempts": 1, "prompt": prompt, **limits}
    return asked.model_copy(update={"synthesis": asked.synthesis.model_copy(update=update)})


def name_model(found: Mapping[str, JournalEntry], config: RunConfig) -> str:
    """The model that answered."""
    return next((record.sampling.model for record in found.values()), config.teacher.model)


def to_row(dataset: Dataset, example: Example, record: JournalEntry | None) -> dict[str, Any]:
    """A row of predictions from an answer, or from none."""
    index = None if record is None else read_choice(record, dataset.titles(example.candidates))
    text = "" if record is None else record.text
    return {
        "example_id": example.example_id,
        "side": "full",
        "text": text,
        "reasoning": split_output(strip_thinking(text)).reasoning,
        schema.ITEM_ID: None if index is None else example.candidates[index],
        "num_tokens": 0 if record is None else int(record.usage.get("completion_tokens", 0)),
        "seed": 0,
    }


def read_choice(record: JournalEntry, candidates: Sequence[str]) -> int | None:
    """The 0-based candidate that an answer names.

    After the reasoning where there is an end to it, or else in the chain's last step, or else in
    the last line.
    """
    lines = record.text.strip().splitlines()
    answer = split_output(strip_thinking(record.text)).answer
    if answer or not lines:
        return parse_answer(answer, candidates) if answer else None
    index = judge(record, candidates, target=-1).index
    return parse_answer(lines[-1], candidates) if index is None else index
