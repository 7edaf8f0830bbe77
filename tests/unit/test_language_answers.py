"""What TALLRec and LLaRA make of what their model wrote."""

import contextlib
import re
from dataclasses import replace
from typing import Any

import pytest

from msrrec.baselines.language.generation import OutputSpec
from msrrec.baselines.language.llara import Llara
from msrrec.baselines.language.tallrec_gen import TallrecGen
from msrrec.baselines.language.tallrec_pointwise import TallrecPointwise
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.schema import Item
from tests.support.language import fitted, train_small_tokenizer, write_one_user


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_small_tokenizer()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_one_user(str(tmp_path_factory.mktemp("dataset")))


def test_an_answers_first_line_names_its_candidate_or_none(
    tokenizer: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = dataset.examples("train")
    said = {
        '"12 mm Drill"\nand more': 1,
        '(2) "12 mm Drill"': 1,
        '"Red * Lamp"': 2,
        "Tin &amp; Tea": 0,
        '"12 mm Drill", "Red * Lamp"': None,
        "": None,
    }
    for make in (TallrecGen, Llara):
        system = fitted(make(RunConfig()), tokenizer, dataset)
        for text, index in said.items():
            ids = tokenizer.encode(text)
            monkeypatch.setattr(system, "generate", lambda prompts, spec, ids=ids: [ids])
            (answer,) = system.write([example])
            assert (answer.index, answer.num_tokens) == (index, len(ids)), text


def test_an_example_that_does_not_fit_leaves_the_others(
    tokenizer: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = dataset.examples("train")
    items = dataset.items | {"long": Item("long", "\u6f22" * 400_000)}
    candidates = ("long",) * 5 + ("i3",)
    odd = replace(example, history=("long",), candidates=candidates)
    example = replace(example, history=("i0", "i1") * 80)  # fills whatever room there is
    crowded = Dataset(dataset.path, dataset.manifest, items)
    config = load_config(overrides=["train.max_seq_len=900"])
    answer = tokenizer.encode('"12 mm Drill"')
    for make in (TallrecGen, Llara):
        system = fitted(make(config), tokenizer, crowded)
        alone: list[Any] = []
        monkeypatch.setattr(
            system, "generate", lambda prompts, _, alone=alone: alone.extend(prompts)
        )
        with contextlib.suppress(TypeError):
            system.write([example])
        together: list[Any] = []

        def ask(prompts: Any, spec: OutputSpec, seen: list[Any] = together) -> list[list[int]]:
            seen.extend(prompts)
            return [answer] * len(prompts)

        monkeypatch.setattr(system, "generate", ask)
        first, second = system.write([odd, example])
        assert (first.index, first.text, first.num_tokens) == (None, "", 0)
        assert second.index == 1
        assert together == alone  # whoever else is asked about
    pointwise = fitted(
        TallrecPointwise(load_config(overrides=["train.max_seq_len=600"])), tokenizer, crowded
    )
    monkeypatch.setattr(pointwise, "generate", lambda prompts, _: [[0.5, 0.5]] * len(prompts))
    assert pointwise.score([odd, example]) == [[0.0] * 6, [0.5] * 3]


def test_probabilities_of_yes_become_the_scores(
    tokenizer: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = dataset.examples("train")
    system = fitted(TallrecPointwise(RunConfig()), tokenizer, dataset)

    def ask(prompts: Any, spec: OutputSpec) -> list[list[float]]:
        assert [tokenizer.decode([n]) for n in spec.choices] == ["Y", "N"]
        asked = [re.findall(r'target item "(.*)"\?', tokenizer.decode(ids))[0] for ids in prompts]
        assert asked == ["Tin & Tea", "12 mm Drill", "Red * Lamp"]
        return [[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]

    monkeypatch.setattr(system, "generate", ask)
    assert system.score([example]) == [[0.25, 0.5, 0.1]]
