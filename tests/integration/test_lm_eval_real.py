"""Exported tasks in lm-eval itself: its figures are those of this project's own scoring."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from msrrec.baselines.language.generation import OutputSpec, TunedGenerator
from msrrec.baselines.language.likelihood import Likelihood
from msrrec.config import EvaluateConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.lm_eval import export_tasks
from msrrec.reasoning.encoding import encode_choice, fit_prompt
from msrrec.reasoning.prompts import DEFAULT_FORM
from msrrec.schema import Example
from msrrec.training.examples import make_query
from tests.support.hostile import write_hostile
from tests.support.language import fitted, train_small_tokenizer
from tests.support.training import SHAPE

harness = pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed (pip install lm-eval==0.4.13)"
)
pytestmark = pytest.mark.integration

NUM_USERS = 50
TASKS = {"history": "msrrec_home_history", "direct": "msrrec_home_direct"}


class InThisProcess(Likelihood):
    """The baseline without Ray."""

    max_tokens = 1024

    def __init__(self, generator: TunedGenerator, *, gain: bool) -> None:
        super().__init__(RunConfig(), gain=gain)
        self._generator = generator

    def generate(self, prompts: Sequence[Sequence[int]], spec: OutputSpec) -> list[list[float]]:
        return self._generator.generate(prompts, spec)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_hostile(str(tmp_path_factory.mktemp("dataset")), NUM_USERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of random weights, whose preferences are strong and mean nothing."""
    folder, tokenizer = str(tmp_path_factory.mktemp("model")), train_small_tokenizer()
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": len(tokenizer), "initializer_range": 0.3}
    shape |= {"max_position_embeddings": 1024, "bos_token_id": tokenizer.bos_token_id}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def samples(
    dataset: Dataset, model: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval recorded about every user, by task."""
    from lm_eval.tasks import TaskManager

    out = str(tmp_path_factory.mktemp("tasks"))
    export_tasks(dataset.path, out, EvaluateConfig())
    found = harness.simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32", "add_bos_token": True},
        tasks=list(TASKS.values()),
        task_manager=TaskManager(include_path=out, include_defaults=False),
        batch_size=16,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    rows = found["samples"]
    return {task: sorted(rows[name], key=lambda row: row["doc_id"]) for task, name in TASKS.items()}


@pytest.fixture(scope="module")
def generator(model: str) -> TunedGenerator:
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    return TunedGenerator(loaded, train_small_tokenizer().eos_token_id)


def told(rows: Sequence[dict[str, Any]]) -> Any:
    """The log-likelihoods of the candidates after the prompt, (users, 6), in lm-eval's words."""
    return np.array([[float(resp[0][0]) for resp in row["resps"]][:6] for row in rows])


def assert_same_choices(rows: Sequence[dict[str, Any]], own: Any, targets: Sequence[int]) -> None:
    """What lm-eval scores begins with a delimiter, which is the same for all candidates."""
    theirs = told(rows)
    spread = (theirs - own) - (theirs - own).mean(1, keepdims=True)
    assert np.abs(spread).max() < 2e-3
    assert [row["acc"] for row in rows] == (own.argmax(1) == targets).tolist()


def targets_of(examples: Sequence[Example]) -> list[int]:
    return [example.candidates.index(example.target) for example in examples]


def test_the_next_title_is_as_likely_as_to_lm_likelihood(
    dataset: Dataset, samples: dict[str, list[dict[str, Any]]], generator: TunedGenerator
) -> None:
    examples = dataset.examples("test")
    system = fitted(InThisProcess(generator, gain=False), train_small_tokenizer(), dataset)
    own = np.array(system.score(examples))
    assert [row["doc"]["example_id"] for row in samples["history"]] == [
        example.example_id for example in examples
    ]
    assert_same_choices(samples["history"], own, targets_of(examples))


def test_an_answer_is_as_likely_as_after_the_prompt_of_the_direct_variant(
    dataset: Dataset, samples: dict[str, list[dict[str, Any]]], generator: TunedGenerator
) -> None:
    examples, own = dataset.examples("test"), []
    for example in examples:
        query, tokenizer = make_query(dataset, example), train_small_tokenizer()
        choice = encode_choice(tokenizer, query.candidates, DEFAULT_FORM)
        prompt, _ = fit_prompt(tokenizer, "direct", query, DEFAULT_FORM, 1024)
        texts = [[*prompt, *choice.closing, *answer] for answer in choice.answers]
        scored = generator.generate(texts, OutputSpec(num_scored=max(map(len, choice.answers))))
        pairs = zip(scored, choice.answers, strict=True)
        own.append([math.fsum(scores[-len(answer) :]) for scores, answer in pairs])
    assert_same_choices(samples["direct"], np.array(own), targets_of(examples))


def test_hostile_titles_reach_the_model_as_they_are_shown(
    samples: dict[str, list[dict[str, Any]]],
) -> None:
    for row in samples["history"]:
        pairs = [(row["doc"]["history"], f"\n{line}") for line in row["doc"]["lines"]]
        assert [tuple(pair) for pair in row["arguments"][:6]] == pairs
    text = str([row["arguments"] for row in samples["direct"]])
    assert "{{ 7*7 }} Kettle" in text
    assert "49 Kettle" not in text
