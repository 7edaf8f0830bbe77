"""Evaluations whose candidates are retrieved: what was not found is a miss of every system."""

from pathlib import Path

import pytest

from msrrec.config import EvaluateConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.evaluate import evaluate_baseline
from msrrec.evaluation.examples import evaluated_examples
from msrrec.evaluation.results import EvaluationResult
from msrrec.metrics.coverage import CoverageTally
from msrrec.metrics.ranking import NOT_FOUND, rank_metrics, target_ranks
from msrrec.retrieval.build import build_index
from msrrec.retrieval.folder import load_index, save_index
from msrrec.schema import Example, Item
from tests.support.dataset import write_cycle
from tests.support.retrieval import only


def example(target: str, *candidates: str) -> Example:
    return Example(f"e-{target}", "u", ("a", "b"), target, candidates)


@pytest.fixture
def cycle(tmp_path: Path) -> tuple[Dataset, str]:
    """Everybody buys item n + 1 after item n; and an index of it with an item nobody knows."""
    (tmp_path / "dataset").mkdir()
    dataset = write_cycle(tmp_path / "dataset")
    given = ("tuning_users=0", *only("transitions"))
    settings = load_config(None, [f"retrieval.{setting}" for setting in given]).retrieval
    index = build_index(dataset, settings, [Item("new", "Thing 99")])
    save_index(index, str(tmp_path / "index"))
    return dataset, str(tmp_path / "index")


def test_a_target_that_was_not_found_has_no_rank_and_is_no_slot() -> None:
    found, missed = example("c", "x", "c"), example("d", "x", "c")
    assert (found.target_slot, missed.target_slot) == (1, -1)
    assert target_ranks(missed, [2.0, 1.0])[0] == NOT_FOUND
    metrics = rank_metrics([found, missed], ["c", "x"], scores=[[1.0, 2.0], [2.0, 1.0]])
    assert (metrics.num_hits, metrics.num_users) == (1, 2)
    assert metrics.slots.num_users == (0, 1)
    assert metrics.ranking is not None
    assert metrics.ranking.mrr.value == 0.5
    assert metrics.ranking.hr[1].value == 0.5
    # An invalid choice may fall back on a random candidate, which hits only where there is a target
    assert rank_metrics([found, missed], [None, None]).hit_ratio_fallback.value == 0.25


def test_coverage_is_counted_at_every_cutoff_and_by_popularity() -> None:
    tally = CoverageTally({"a": 7, "b": 1}, 6)
    tally.add([example("a", *"abcdef"), example("b", *"fedcab"), example("z", *"abcdef")])
    found = tally.result()
    assert {k: share.value for k, share in found.at.items()} == pytest.approx(
        {1: 1 / 3, 5: 1 / 3, 6: 2 / 3}
    )
    shares = {row.low: (row.num_users, row.hit_ratio) for row in found.popularity.rows}
    assert shares[0][0] == 1  # nobody bought z
    assert shares[0][1] is not None
    assert shares[0][1].value == 0
    assert shares[2] == (0, None)
    shuffled = CoverageTally({}, 6, is_ordered=False)
    shuffled.add([example("a", *"fedcba")])
    assert list(shuffled.result().at) == [6]


def test_candidates_are_what_the_index_finds_for_all_earlier_purchases(
    cycle: tuple[Dataset, str],
) -> None:
    dataset, index = cycle
    settings = EvaluateConfig(negatives="retrieved", index=index, num_retrieved=4)
    for one in evaluated_examples(dataset, settings):
        assert len(one.candidates) == 4
        assert not {*one.history} & {*one.candidates}
        assert "new" not in one.candidates  # the dataset lacks it
        assert one.candidates[0] == one.target  # the item that follows the last one
    shuffled = settings.model_copy(update={"permutation": 3})
    assert len({one.target_slot for one in evaluated_examples(dataset, shuffled)}) > 1


def test_an_evaluation_tells_coverage_apart_from_hits(
    cycle: tuple[Dataset, str], tmp_path: Path
) -> None:
    dataset, index = cycle
    given = ("negatives=retrieved", f"index={index}", "num_retrieved=2")
    config = load_config(None, [f"evaluate.{setting}" for setting in given])
    summary = evaluate_baseline(dataset, "random", str(tmp_path / "out"), config)
    assert summary["coverage"] == {"1": 1.0, "2": 1.0}
    result = EvaluationResult.load(str(tmp_path / "out"))
    assert result.coverage is not None
    assert result.chance == 0.5
    assert result.dataset.negatives.startswith("2 retrieved by ")
    names = [check.name for check in result.audit]
    assert names == ["Candidates", "Leakage"]
    assert all(check.ok for check in result.audit)


def test_chance_is_that_of_the_users_whose_target_is_there(
    cycle: tuple[Dataset, str], tmp_path: Path
) -> None:
    dataset, index = cycle
    save_index(load_index(index).remove([f"i{n:02d}" for n in range(3)]), index)
    given = ("negatives=retrieved", f"index={index}", "num_retrieved=2")
    config = load_config(None, [f"evaluate.{setting}" for setting in given])
    evaluate_baseline(dataset, "random", str(tmp_path / "out"), config)
    result = EvaluationResult.load(str(tmp_path / "out"))
    assert result.coverage is not None
    # A quarter of the items is not offered any more, so a quarter of the targets is not found.
    assert result.coverage.at[2].value == 0.75
    assert result.chance == 0.375


def test_a_dishonest_or_foreign_index_is_refused(
    cycle: tuple[Dataset, str], tmp_path: Path
) -> None:
    dataset, index = cycle
    everything = load_config(None, ["retrieval.purchases=all"]).retrieval
    save_index(build_index(dataset, everything), str(tmp_path / "all"))
    with pytest.raises(DataError, match="learned from all purchases, the targets among them"):
        evaluated_examples(dataset, EvaluateConfig(negatives="retrieved", index=f"{tmp_path}/all"))
    (tmp_path / "other").mkdir()
    other = write_cycle(tmp_path / "other", num_items=13)
    changed = Dataset(other.path, {**other.manifest, "fingerprint": "another"}, other.items)
    with pytest.raises(DataError, match="was made from dataset another, the index from"):
        evaluated_examples(changed, EvaluateConfig(negatives="retrieved", index=index))
    with pytest.raises(ConfigError, match="needs the folder of an index"):
        load_config(None, ["evaluate.negatives=retrieved"])
    with pytest.raises(ConfigError, match="the others take none"):
        load_config(None, [f"evaluate.index={index}"])
    with pytest.raises(DataError, match=r"holds no index\.json"):
        evaluated_examples(dataset, EvaluateConfig(negatives="retrieved", index=str(tmp_path)))


def test_tasks_of_lm_eval_need_their_targets(cycle: tuple[Dataset, str], tmp_path: Path) -> None:
    from msrrec.config import PromptConfig
    from msrrec.evaluation.lm_eval import export_tasks

    dataset, index = cycle
    settings = EvaluateConfig(negatives="retrieved", index=index)
    with pytest.raises(ConfigError, match="need the target among the candidates"):
        export_tasks(dataset.path, str(tmp_path / "tasks"), settings, PromptConfig())
