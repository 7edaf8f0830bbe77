"""The frozen examples as tasks of lm-eval, EleutherAI's harness for language models.

Whoever has a model that lm-eval can load gets its HitRatio@1 on the same candidates: ``acc`` is
that of ranking titles by likelihood, ``acc_mutual_info`` that of what the history adds to it.
"""

import json
import re
from typing import Literal

import yaml

from msrrec import storage
from msrrec.config import EvaluateConfig, PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import evaluated_examples
from msrrec.reasoning.prompts import DEFAULT_FORM, render_context
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.titles import clean_title, show_titles

Task = Literal["history", "list"]
"""``history`` shows the purchases alone, and a title is its next line; ``list`` shows the
candidates too, and a title is the answer."""

_NEXT = "The next purchase is:"
_METRICS = ("acc", "acc_norm", "acc_mutual_info")


def export_tasks(
    folder: str, out: str, config: EvaluateConfig, form: PromptConfig = DEFAULT_FORM
) -> Summary:
    """Write ``<split>.jsonl`` and a YAML file per task into a folder for ``--include_path``.

    Args:
        folder: Folder made by ``msrrec prepare``.
        out: Folder to write.
        config: Which users and candidates.
        form: How the lists are written.

    Raises:
        DataError: If there is no dataset, or its split has no examples.
    """
    dataset = Dataset.load(folder)
    examples = evaluated_examples(dataset, config)
    file = storage.absolute(storage.join(out, f"{config.split}.jsonl"))
    lines = [json.dumps(_row(dataset, e, form), ensure_ascii=False) for e in examples]
    storage.write_bytes(file, "".join(line + "\n" for line in lines).encode("utf-8", "replace"))
    slug = re.sub(r"\W+", "_", dataset.domain.lower()).strip("_") or "shop"
    names: dict[Task, str] = {"history": f"msrrec_{slug}_history", "list": f"msrrec_{slug}_list"}
    for task, name in names.items():
        text = yaml.safe_dump(_describe(task, name, file, dataset), sort_keys=False)
        storage.write_bytes(storage.join(out, f"{name}.yaml"), text.encode())
    return {"out": out, "tasks": list(names.values()), "num_users": len(examples)}


def _row(dataset: Dataset, example: Example, form: PromptConfig) -> dict[str, object]:
    history = dataset.titles(example.history)
    choices = show_titles(dataset.titles(example.candidates), form.max_title_chars)
    purchases = "".join(f"{clean_title(title)}\n" for title in history)
    head = f"Purchases of one customer at {clean_title(dataset.domain)}, oldest first:\n"
    context = render_context(dataset.domain, history, dataset.titles(example.candidates), form)
    return {
        "example_id": example.example_id,
        "history": head + purchases,
        "list": context + _NEXT,
        "choices": choices,
        "target": example.candidates.index(example.target),
    }


def _describe(task: Task, name: str, file: str, dataset: Dataset) -> dict[str, object]:
    """A task in lm-eval's own words."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": file}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": task,
        "doc_to_choice": "choices",
        "doc_to_target": "target",
        "target_delimiter": "" if task == "history" else " ",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in _METRICS
        ],
        "metadata": {"version": 1.0, "dataset": dataset.fingerprint},
    }
