"""The arms that tell whether reasoning helps: same purchases, other texts between the markers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import PromptConfig, RunConfig, TrainConfig, for_arm
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.models import SupervisedTokens, read_arm
from msrrec.pipeline.work import facts_settings
from msrrec.reasoning.prompts import render_reasoning
from msrrec.schema import Example, Item
from msrrec.stage import Call
from msrrec.training.arms import derange, encode_filler
from msrrec.training.examples import Encoded, ExampleSet, build_examples
from tests.support.language import train_small_tokenizer

TITLES = ("Blue Kettle", "Oak Shelf", "Tin Mug", "Old Lamp")
CATEGORIES = (("Home", "Kettles"), ("Home", "Shelves"), (), ("Home", "Lamps"))
PATHS = {f"u{n}": tuple(f"step {step} of user {n}." for step in range(5)) for n in range(2)}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_small_tokenizer()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users u0, u1 and u2 who bought the lamp, and then item 0, 1 or 2."""
    return write_shop(tmp_path_factory.mktemp("shop"), CATEGORIES)


def write_shop(folder: Path, categories: tuple[tuple[str, ...], ...]) -> Dataset:
    items = {f"i{n}": Item(f"i{n}", title, categories[n]) for n, title in enumerate(TITLES)}
    rows = [
        {
            "example_id": f"u{n}",
            "user_id": f"u{n}",
            "history": ["i3"],
            "target": f"i{n}",
            "candidates": ["i0", "i1", "i2"],
        }
        for n in range(3)
    ]
    storage.write_table(f"{folder}/train.parquet", pa.Table.from_pylist(rows, schema.EXAMPLES))
    return Dataset(str(folder), {"domain": "Home", "fingerprint": "f"}, items)


def build(dataset: Dataset, tokenizer: Any, paths: Any = PATHS, **settings: Any) -> ExampleSet:
    return build_examples(dataset, paths, tokenizer, TrainConfig(**settings), PromptConfig())


def texts(examples: ExampleSet, tokenizer: Any) -> list[tuple[str, str]]:
    """What each example supervises between the markers, and after."""
    return [
        (tokenizer.decode(ids[segments == 1]), tokenizer.decode(ids[segments == 2]))
        for ids, segments in (examples[n] for n in range(len(examples)))
    ]


def chain_of(user: int) -> str:
    return render_reasoning("full", PATHS[f"u{user}"])


ANSWERS = [f"[reasoning_end]\n({n}) {title}<|end|>" for n, title in enumerate(TITLES[:3], 1)]


def test_the_chain_is_the_users_own_and_a_user_without_one_answers_at_once(
    dataset: Dataset, tokenizer: Any
) -> None:
    found = texts(build(dataset, tokenizer), tokenizer)
    assert found == [(chain_of(0), ANSWERS[0]), (chain_of(1), ANSWERS[1]), ("", ANSWERS[2])]


def test_the_placebo_is_the_other_users_chain_before_the_users_own_item(
    dataset: Dataset, tokenizer: Any
) -> None:
    found = texts(build(dataset, tokenizer, arm="placebo"), tokenizer)
    assert found == [(chain_of(1), ANSWERS[0]), (chain_of(0), ANSWERS[1]), ("", ANSWERS[2])]


def test_filler_is_as_long_as_the_chain_and_says_nothing(dataset: Dataset, tokenizer: Any) -> None:
    chains, filler = build(dataset, tokenizer), build(dataset, tokenizer, arm="filler")
    assert filler.lengths.tolist() == chains.lengths.tolist()
    for n in range(3):
        (ids, segments), (other, kinds) = filler[n], chains[n]
        assert segments.tolist() == kinds.tolist()
        assert ids[segments != 1].tolist() == other[kinds != 1].tolist()  # prompt and answer
        assert set(tokenizer.decode(ids[segments == 1])) <= {" ", "."}


def test_without_reasoning_each_purchase_is_seen_as_often_as_with_it(
    dataset: Dataset, tokenizer: Any
) -> None:
    sides = ("full", "user", "item")
    chains = build(dataset, tokenizer, sides=sides)
    plain = build(dataset, tokenizer, sides=sides, arm="none")
    # u0 and u1 have a chain of each of three sides, u2 has none.
    assert texts(plain, tokenizer) == [("", ANSWERS[n]) for n in (0, 0, 0, 1, 1, 1, 2)]
    assert len(chains) == len(plain) == 7
    unknown = build(dataset, tokenizer, None, sides=sides, arm="none")
    assert texts(unknown, tokenizer) == [("", ANSWERS[n]) for n in (0, 0, 0, 1, 1, 1, 2, 2, 2)]


def test_facts_are_asked_apart_in_as_many_tokens_and_purchases_answered_at_once(
    dataset: Dataset, tokenizer: Any
) -> None:
    chains, facts = build(dataset, tokenizer), build(dataset, tokenizer, arm="facts")
    found = texts(facts, tokenizer)
    assert [answer for _, answer in found] == [ANSWERS[0], "", ANSWERS[1], "", ANSWERS[2]]
    # The history's lamp, then the candidates, over and over.
    listed = "- Lamps\n(1) Kettles\n(2) Shelves\n(3) none\n"
    for n, m in ((1, 0), (3, 1)):
        text, _ = found[n]
        assert text == (listed * 9)[: len(text)]
        count = int((chains[m][1] == 1).sum())
        assert int((facts[n][1] == 1).sum()) == count
    prompt = tokenizer.decode(facts[1][0][facts[1][1] == 0])
    assert "Name the category of every purchase and candidate" in prompt
    assert "Recommend" not in prompt
    supervised = [s.count_supervised([np.arange(len(s.units))]) for s in (chains, facts)]
    assert supervised[0] == supervised[1]


def test_facts_are_learned_in_the_step_of_their_purchase(dataset: Dataset, tokenizer: Any) -> None:
    chains, facts = build(dataset, tokenizer), build(dataset, tokenizer, arm="facts")
    # u0 and u1 have a chain, u2 has none: as many units in the same order, so the same steps.
    assert len(chains.units) == len(facts.units) == 3
    assert [facts.examples_of(np.array([n])).tolist() for n in range(3)] == [[0, 1], [2, 3], [4]]
    assert facts.examples_of(np.array([2, 0])).tolist() == [4, 0, 1]
    assert chains.examples_of(np.array([2, 0])).tolist() == [2, 0]
    apart = replace(facts, units=np.arange(len(facts)))
    assert facts.fingerprint != apart.fingerprint


def test_facts_need_categories(tmp_path: Path, tokenizer: Any) -> None:
    bare = write_shop(tmp_path, ((),) * 4)
    with pytest.raises(DataError, match=r"train\.arm=facts: 'Blue Kettle' .* have no categories"):
        build(bare, tokenizer, arm="facts")


def example(example_id: str, user_id: str) -> Example:
    return Example(example_id, user_id, ("h",), "a", ("a", "b"))


@pytest.mark.parametrize("seed", range(5))
def test_everybody_gets_another_users_example_and_every_one_is_given_once(seed: int) -> None:
    owners = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "c1": "c", "d1": "d"}
    given = derange([example(*pair) for pair in owners.items()], seed)
    assert sorted(given) == sorted(given.values()) == sorted(owners)
    assert all(owners[mine] != owners[other] for mine, other in given.items())
    assert given == derange([example(*pair) for pair in owners.items()], seed)


def test_two_users_swap_and_one_alone_is_refused() -> None:
    pair = [example("x", "u"), example("y", "v")]
    assert derange(pair, 0) == {"x": "y", "y": "x"}
    with pytest.raises(DataError, match="one user has 2 of the 3 paths"):
        derange([example("x", "u"), example("y", "u"), example("z", "v")], 0)


def test_filler_repeats_its_tokens_up_to_the_count(tokenizer: Any) -> None:
    one = encode_filler(tokenizer, 1)
    assert encode_filler(tokenizer, 0) == []
    assert len(encode_filler(tokenizer, 7)) == 7
    assert encode_filler(tokenizer, 7)[0] == one[0]


def test_supervised_tokens_count_as_often_as_their_example_is_trained_on() -> None:
    examples = ExampleSet.collect(
        [Encoded([1, 2, 3, 4], [0, 1, 1, 2], 0), Encoded([1, 2], [0, 2], 0)]
    )
    batches = [np.array([0, 1]), np.array([0])]
    # the first example twice: 2 * 2 and 2 * 1; the second once: 1
    assert examples.count_supervised(batches) == SupervisedTokens(4, 3)
    assert examples.count_supervised([]) == SupervisedTokens(0, 0)


def test_an_arms_settings_are_those_of_the_chains_but_for_its_name() -> None:
    base = RunConfig()
    for arm in ("chain", "none", "placebo", "filler", "facts"):
        assert for_arm(base, arm).train == base.train.model_copy(update={"arm": arm})


def test_models_that_learned_facts_in_steps_of_their_own_are_not_taken_for_others() -> None:
    told = [facts_settings(Call("", for_arm(RunConfig(), arm))) for arm in ("chain", "facts")]
    assert told == [{}, {"facts": "in the step of their purchase"}]


def test_an_older_model_tells_its_arm_by_whether_it_reasons() -> None:
    told: list[dict[str, Any]] = [{}, {"reasoning": True}, {"reasoning": False}, {"arm": "facts"}]
    assert [read_arm({"train": train}) for train in told] == ["chain", "chain", "none", "facts"]
