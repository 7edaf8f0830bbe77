"""A teacher as a system: the five-step chain zero-shot, or RecSAVER.

As a baseline, RecSAVER (Tsai et al. 2024) is the same model with a plain request to reason.
``synthesize`` sends the prompts of the evaluated split, so completions are journaled and never paid
for twice.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msrrec.config import PromptConfig, RunConfig, for_references
from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import check_frozen
from msrrec.evaluation.results import ApiFacts, Details
from msrrec.evaluation.systems import RECSAVER, TEACHER, SystemId
from msrrec.evaluation.write import EvaluatedPart, Evaluation, write_evaluation
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.reasoning.parsing import split_completion
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.synthesis.journal import JournalEntry
from msrrec.synthesis.synthesize import first_answers, synthesize
from msrrec.titles import show_titles

Prompt = Literal["chain", "plain"]


def evaluate_teacher(
    dataset: Dataset,
    out: str,
    answers: str,
    config: RunConfig,
    keys: Mapping[str, str],
    prompt: Prompt = "chain",
) -> Summary:
    """Request one completion per evaluated user, and write them as predictions.

    Args:
        dataset: Dataset made by ``msrrec prepare``.
        out: Folder of the evaluation.
        answers: Output folder of ``synthesize``; its journal is kept between runs.
        config: Sections ``teacher``, ``evaluate`` and ``prompt``.
        keys: API keys by the names of their environment variables.
        prompt: chain for the five steps, plain for RecSAVER.

    Raises:
        ConfigError: If other candidates or another order than the dataset's are asked for.
        EngineError: If every teacher refuses or can't be reached.
    """
    check_frozen(config, ONLY_FROZEN)
    asked = settings_for(config, prompt)
    synthesize(dataset, answers, asked, keys)
    found = first_answers(dataset, answers, asked)
    examples = dataset.examples(config.evaluate.split, config.evaluate.num_users)
    predictions = [
        to_prediction(dataset, e, found.get(e.example_id), config.prompt) for e in examples
    ]
    facts = ApiFacts(calls=len(found), unanswered=len(examples) - len(found))
    system = identify_teacher(prompt, name_model(found, config))
    part = EvaluatedPart(examples, {"full": predictions})
    evaluation = Evaluation(system, [part], lambda: Details(api=facts), form=config.prompt)
    return write_evaluation(evaluation, dataset, out, config)


def identify_teacher(prompt: Prompt, model: str) -> SystemId:
    """The identity of a model with a kind of prompt."""
    if prompt == "plain":
        return SystemId(id="recsaver", kind="api", label=f"RecSAVER ({model})", paper_row=RECSAVER)
    return SystemId(id="teacher", kind="api", label=f"{model} zero-shot", paper_row=TEACHER)


ONLY_FROZEN = "the teacher is only asked about"
"""Why other candidates are refused, see ``check_frozen``."""


def settings_for(config: RunConfig, prompt: Prompt) -> RunConfig:
    """The settings for one completion per evaluated user to a prompt of this kind."""
    asked = for_references(config)
    limits = {"tau_per_user": None, "tau_per_category": None}
    update = {"attempts": 1, "prompt": prompt, **limits}
    return asked.model_copy(update={"synthesis": asked.synthesis.model_copy(update=update)})


def name_model(found: Mapping[str, JournalEntry], config: RunConfig) -> str:
    """Name of the model that answered."""
    return next((entry.sampling.model for entry in found.values()), config.teacher.model)


def to_prediction(
    dataset: Dataset, example: Example, entry: JournalEntry | None, form: PromptConfig
) -> Prediction:
    """A completion as a prediction; invalid and empty if an example has none."""
    if entry is None:
        return Prediction(example.example_id, SideOutput("full", "", "", None, None, 0), 0)
    shown = show_titles(dataset.titles(example.candidates), form.max_title_chars)
    index = read_choice(entry, shown)
    reasoning = split_completion(entry.text).reasoning
    num_tokens = int(entry.usage.get("completion_tokens", 0))
    output = SideOutput("full", entry.text, reasoning, index, None, num_tokens)
    return Prediction(example.example_id, output, 0)


def read_choice(entry: JournalEntry, candidates: Sequence[str]) -> int | None:
    """The 0-based candidate that a completion names, by the reading rule for all systems."""
    return read_strict(entry.text, candidates)
