"""The frozen examples as tasks of lm-eval, EleutherAI's harness for language models.

Whoever has a model that lm-eval can load gets its HitRatio@1 by likelihood on the same candidates.
Prompts, titles and answers come from the functions that this project's own scoring uses.
"""

import json
import re
from collections.abc import Mapping
from typing import Literal

import yaml

from msrrec import storage
from msrrec.config import EvaluateConfig, PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.examples import evaluated_examples
from msrrec.reasoning.encoding import show_query
from msrrec.reasoning.prompts import (
    DEFAULT_FORM,
    OUTPUT_PREFIX,
    render_answers,
    render_heading,
    render_line,
    render_prompt,
    render_recommendation,
)
from msrrec.schema import Example
from msrrec.stage import Summary

Task = Literal["history", "direct", "direct_chat"]
"""``history`` shows the purchases alone, and a title is the next line (as ``lm-likelihood``);
``direct`` is the prompt of the variant of that name, and a title is its answer; ``direct_chat`` is
the same for ``--apply_chat_template``."""

_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
_BEFORE_ANSWER = OUTPUT_PREFIX + render_recommendation("")
_OWN_WORDS: Mapping[Task, Mapping[str, str]] = {
    "history": {"doc_to_text": "history", "doc_to_choice": "lines", "target_delimiter": "\n"},
    "direct": {
        "doc_to_text": "{{direct[:-1]}}",
        "doc_to_choice": "answers",
        "target_delimiter": f".\n{_BEFORE_ANSWER}",
    },
    "direct_chat": {
        "doc_to_text": "direct",
        "doc_to_choice": "answers",
        "gen_prefix": _BEFORE_ANSWER.removesuffix("]\n"),
        "target_delimiter": "]\n",
    },
}
"""In lm-eval's own words. Columns by their names are shown as they are, and what a template takes
from a column is no template itself, so nothing in a title is rendered.

The text that is scored begins with the delimiter, the same for all candidates. lm-eval splits the
tokens of the whole text there. Many tokenizers join a sign with the line break after it, which
would then be lost; so a delimiter takes the sign along where the text before it is known.
"""


def export_tasks(
    folder: str, out: str, config: EvaluateConfig, form: PromptConfig = DEFAULT_FORM
) -> Summary:
    """Write ``<split>.jsonl`` and a YAML file per task into a folder for ``--include_path``.

    Args:
        folder: Folder made by ``msrrec prepare``.
        out: Folder to write, on this machine.
        config: Which users and candidates.
        form: How prompts and answers are written.

    Raises:
        ConfigError: If the folder to write is no path on this machine.
        DataError: If there is no dataset, or its split has no examples.
    """
    if "://" in out:
        raise ConfigError(
            f"--out {out}: lm-eval reads tasks from this machine; give a local folder"
        )
    dataset = Dataset.load(folder)
    if config.negatives == "retrieved":
        raise ConfigError(
            "evaluate.negatives=retrieved: tasks of lm-eval need the target among the candidates; "
            "expected frozen, uniform, popular or category"
        )
    examples = evaluated_examples(dataset, config)
    file = storage.absolute(storage.join(out, f"{config.split}.jsonl"))
    lines = [json.dumps(_row(dataset, example, form)) + "\n" for example in examples]
    storage.write_bytes(file, "".join(lines).encode())
    slug = re.sub(r"[^a-z0-9]+", "_", dataset.domain.lower()).strip("_") or "shop"
    names: dict[Task, str] = {task: f"msrrec_{slug}_{task}" for task in _OWN_WORDS}
    for task, name in names.items():
        text = yaml.safe_dump(_describe(task, name, file, dataset), sort_keys=False)
        storage.write_bytes(storage.join(out, f"{name}.yaml"), text.encode())
    return {"out": out, "tasks": list(names.values()), "num_users": len(examples)}


def _row(dataset: Dataset, example: Example, form: PromptConfig) -> dict[str, object]:
    """A line of the file: one user, with the prompts and answers of all tasks."""
    from msrrec.training.examples import make_query  # loads torch

    query = make_query(dataset, example)
    shown = show_query(query, form.max_title_chars)
    history = render_heading(query.domain) + "".join(map(render_line, shown.history))
    return {
        "example_id": example.example_id,
        "history": history.removesuffix("\n"),
        "lines": list(map(render_line, shown.candidates)),
        "direct": render_prompt("direct", query.domain, query.history, query.candidates, form),
        "answers": render_answers(query.candidates, form),
        "target": example.target_slot,
    }


def _describe(task: Task, name: str, file: str, dataset: Dataset) -> dict[str, object]:
    """The content of a task's YAML file."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": file}},
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "multiple_choice",
        **_OWN_WORDS[task],
        "doc_to_target": "target",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in _METRICS
        ],
        "metadata": {"version": 2.0, "dataset": dataset.fingerprint},
    }
