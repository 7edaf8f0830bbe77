import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5Model

from msrrec.baselines import build_baseline
from msrrec.baselines import embedding as embedding_module
from msrrec.baselines.interface import choose, mean_reciprocal_rank
from msrrec.baselines.popularity import count_training_buyers
from msrrec.baselines.purchases import training_purchases
from msrrec.config import ModelConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, DataError
from msrrec.models import locate_base
from msrrec.packaged import PACKAGED, PackagedModel
from msrrec.schema import Example, Item, Split
from tests.support.dataset import write_events


@dataclass(frozen=True)
class InMemory(Dataset):
    """A dataset in memory whose test split must not be looked at."""

    train: tuple[Example, ...] = ()
    validation: tuple[Example, ...] = ()

    def examples(self, split: Split, limit: int = 0) -> list[Example]:
        assert split != "test"
        return list(self.train if split == "train" else self.validation)

    def iter_events(self) -> Iterator[tuple[str, list[str]]]:
        """Each user's last training example, and two held-out events."""
        yield from {e.user_id: [*e.history, e.target, "z", "z"] for e in self.train}.items()


def example(
    user: str, history: tuple[str, ...], target: str, candidates: tuple[str, ...] = ()
) -> Example:
    return Example(f"{user}-{target}", user, history, target, candidates or (target, "z"))


TRAIN = (
    example("u1", ("a",), "b"),
    example("u1", ("a", "b"), "c"),  # a and b again: the same user counts once
    example("u2", ("a", "a"), "c"),
    example("u3", ("d",), "a"),
)
TITLES = {
    "a": "Red oak lamp",
    "b": "Red oak table",
    "c": "Blue lamp",
    "d": "Tin mug",
    "x": "Something else",
    "z": "A last thing",
}


def world(
    validation: tuple[Example, ...] = (), categories: dict[str, tuple[str, ...]] | None = None
) -> InMemory:
    paths = categories or {}
    items = {i: Item(i, title, paths.get(i, ())) for i, title in TITLES.items()}
    return InMemory("memory", {}, items, TRAIN, validation)


def scores(name: str, dataset: Dataset, asked: list[Example], seed: int = 0) -> list[list[float]]:
    config = RunConfig.model_validate({"inference": {"seed": seed}})
    baseline = build_baseline(name, config)
    baseline.fit(dataset, "")
    return baseline.score(asked)


def test_buyers_count_once_in_histories_and_targets() -> None:
    counts = count_training_buyers(InMemory("memory", {}, {}, TRAIN))
    assert counts == Counter({"a": 3, "c": 2, "b": 1, "d": 1})
    twice = InMemory("memory", {}, {}, [Example("e", "u", ("a", "a"), "a", ("a", "b"))])
    assert count_training_buyers(twice) == Counter({"a": 1})


def test_the_most_bought_candidate_has_the_highest_score() -> None:
    asked = [example("t", ("x",), "b", ("b", "c", "d", "z"))]
    assert scores("popularity", world(), asked) == [[1.0, 2.0, 1.0, 0.0]]


def test_the_highest_score_is_chosen_wherever_it_stands() -> None:
    asked = [example("t1", ("x",), "b", ("b", "c")), example("t2", ("x",), "b", ("c", "b"))]
    assert choose(asked, [[1.0, 2.0], [2.0, 1.0]], 0) == ["c", "c"]


def test_ties_follow_the_seed_and_not_the_slot() -> None:
    names = tuple(f"unknown-{n}" for n in range(6))
    forward = [example("t", ("x",), names[0], names)]
    backward = [example("t", ("x",), names[0], names[::-1])]
    chosen = {seed: choose(forward, [[0.0] * 6], seed) for seed in range(20)}
    assert chosen == {seed: choose(backward, [[0.0] * 6], seed) for seed in range(20)}
    assert len({item for (item,) in chosen.values()}) > 2


def test_random_choices_are_uniform_over_slots_and_repeatable() -> None:
    names = tuple("abcdef")
    asked = [Example(f"e{n}", f"u{n}", ("x",), "a", names) for n in range(6000)]
    found = scores("random", world(), asked)
    assert found == scores("random", world(), asked)
    assert found != scores("random", world(), asked, seed=1)
    # 1000 each are expected; five standard deviations are 144.
    assert all(abs(n - 1000) < 144 for n in Counter(choose(asked, found, 0)).values())


def test_a_random_score_does_not_depend_on_the_examples_around_it() -> None:
    asked = [Example(f"e{n}", f"u{n}", ("x",), "a", ("a", "b", "c")) for n in range(50)]
    assert scores("random", world(), asked[::-1]) == scores("random", world(), asked)[::-1]


def test_the_mean_reciprocal_rank_counts_ties_against_the_target() -> None:
    asked = [example("t1", ("x",), "b", ("b", "c", "d")), example("t2", ("x",), "b", ("c", "b"))]
    # ranks 1 and, tied with c, 2
    assert mean_reciprocal_rank(asked, [[3.0, 2.0, 1.0], [1.0, 1.0]]) == pytest.approx(0.75)


def test_training_purchases_are_all_events_but_the_held_out_ones(tmp_path: Path) -> None:
    write_events(tmp_path, {"u1": "abcdef", "u2": "bcd"})
    dataset = Dataset(str(tmp_path), {}, {})
    assert training_purchases(dataset) == {"u1": tuple("abcd"), "u2": ("b",)}


def test_item_knn_adds_the_cosines_to_the_history() -> None:
    # Buyers: a by three users, c by two, b and d by one. No shrinkage puts b before c, so 0 stays.
    dataset = world((example("u3", ("a",), "b", ("c", "b")),))
    found = scores("item-knn", dataset, [example("t", ("a", "b"), "c", ("c", "d", "z", "a"))])
    a_c, b_c, a_d, a_b = 2 / math.sqrt(6), 1 / math.sqrt(2), 1 / math.sqrt(3), 1 / math.sqrt(3)
    assert found[0] == pytest.approx([a_c + b_c, a_d, 0.0, a_b])


def test_item_knn_takes_the_shrinkage_that_validation_prefers() -> None:
    # Sixteen users of a and c, one of b and d: both cosines are 1, and shrinkage favours the many.
    many = tuple(example(f"m{n}", ("a",), "c") for n in range(16))
    once = (example("o", ("b",), "d"),)
    asked = (example("o", ("a", "b"), "c", ("d", "c")),)
    items = {i: Item(i, title) for i, title in TITLES.items()}
    baseline = build_baseline("item-knn", RunConfig())
    facts = baseline.fit(InMemory("memory", {}, items, many + once, asked), "")
    assert facts["shrinkage"] > 0
    assert facts["validation_mrr"] == 1.0
    (found,) = baseline.score(asked)
    assert found == pytest.approx([1 / (1 + facts["shrinkage"]), 16 / (16 + facts["shrinkage"])])


def test_same_category_is_the_shared_part_of_the_paths() -> None:
    paths = {
        "a": ("Home", "Lamps"),
        "b": ("Home", "Tables"),
        "c": ("Home", "Lamps"),
        "d": ("Toys",),
    }
    asked = [example("t", ("a", "b"), "c", ("c", "d", "z"))]
    # c shares all of a's path and half of b's; d and the item without categories share nothing.
    assert scores("category", world(categories=paths), asked) == [[0.75, 0.0, 0.0]]


def test_same_category_needs_categories() -> None:
    with pytest.raises(DataError, match="no item has categories"):
        scores("category", world(), [])


def test_bm25_is_the_same_in_every_process() -> None:
    program = (
        "from msrrec.baselines.bm25 import Bm25\n"
        "from msrrec.config import ModelConfig, RunConfig\n"
        "from msrrec.data.dataset import Dataset\n"
        "from msrrec.schema import Example, Item\n"
        "words = [f'word{n}' for n in range(60)]\n"
        "titles = [' '.join(words[:n]) for n in range(1, 60)]\n"
        "items = {str(n): Item(str(n), title) for n, title in enumerate(titles)}\n"
        "bm25 = Bm25(RunConfig(), 'last')\n"
        "bm25.fit(Dataset('', {}, items), '')\n"
        "print(bm25.score([Example('e', 'u', ('58',), '0', tuple(items))]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


def test_bm25_weighs_shared_words_by_their_rarity() -> None:
    # Six titles of 3, 3, 2, 2, 2 and 3 words, 2.5 on average; `red` and `oak` stand in two of them.
    idf = math.log(1 + (6 - 2 + 0.5) / (2 + 0.5))
    norm = 1 + 1.5 * (1 - 0.75 + 0.75 * 3 / 2.5)
    both = 2 * idf * 2.5 / norm
    asked = [example("t", ("d", "a"), "b", ("b", "x"))]
    assert scores("bm25-last", world(), asked)[0] == pytest.approx([both, 0.0])
    assert scores("bm25-mean", world(), asked)[0] == pytest.approx([both / 2, 0.0])


def test_embeddings_are_compared_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = {"a": (1, 0), "b": (0.6, 0.8), "c": (0, 1), "d": (0, -1), "x": (1, 0), "z": (1, 0)}
    monkeypatch.setattr(
        embedding_module, "encode", lambda model, titles: np.array(list(vectors.values()))
    )
    asked = [example("t", ("b", "c"), "a", ("a", "d"))]
    config = RunConfig.model_validate({"baselines": {"embedding_model": "m"}})
    found = {}
    for name in ("embedding-last", "embedding-mean", "embedding-max"):
        baseline = build_baseline(name, config)
        baseline.fit(world(), "")
        found[name] = baseline.score(asked)[0]
    assert found["embedding-last"] == pytest.approx([0.0, -1.0])
    assert found["embedding-mean"] == pytest.approx([0.3, -0.9])
    assert found["embedding-max"] == pytest.approx([0.6, -0.8])


def test_of_a_model_with_two_halves_the_encoder_embeds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5Model(T5Config(vocab_size=32_000, **shape)).bfloat16()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(locate_base(ModelConfig()).path).save_pretrained(tmp_path)
    vectors = embedding_module.encode(str(tmp_path), ["Red lamp", "Tin mug"])
    assert vectors.shape == (2, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    model.float().save_pretrained(tmp_path)  # the same weights, and so the same vectors
    assert np.array_equal(embedding_module.encode(str(tmp_path), ["Red lamp", "Tin mug"]), vectors)


def test_the_embedding_model_may_be_a_packaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = locate_base(ModelConfig()).path
    monkeypatch.setitem(PACKAGED, "minilm", PackagedModel(("msrrec==0",), "msrrec", folder))
    titles = ["Red lamp", "Tin mug"]
    found = embedding_module.encode("minilm", titles)
    assert np.array_equal(found, embedding_module.encode(folder, titles))


def test_embeddings_need_a_model() -> None:
    with pytest.raises(ConfigError, match="embedding_model is not set"):
        build_baseline("embedding-last", RunConfig())


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"'best': is unknown; expected one of random, popularity"
    ):
        build_baseline("best", RunConfig())
