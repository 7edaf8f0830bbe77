"""Candidate sets drawn at evaluation: what they hold, and that they are the same every time."""

from collections import Counter
from pathlib import Path

import pytest

from msrrec.config import DataConfig, load_config
from msrrec.data.dataset import USERS_FILE, Dataset
from msrrec.data.leave_one_out import HeldOut
from msrrec.data.negatives import Kind, draw_candidates
from msrrec.data.prepare import prepare
from msrrec.errors import ConfigError, DataError
from msrrec.schema import Example

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = str(tmp_path_factory.mktemp("dataset") / "out")
    prepare("demo", None, None, folder, DataConfig(demo_users=200, num_users=150, k_core=1))
    return Dataset.load(folder)


def draw(dataset: Dataset, split: HeldOut, kind: Kind, count: int | None) -> list[Example]:
    """All examples with new candidates."""
    return [e for part in draw_candidates(dataset, split, kind, count).read() for e in part]


@pytest.mark.parametrize("kind", ["uniform", "popular", "category"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_sets_hold_the_target_and_what_its_user_never_touched(
    dataset: Dataset, kind: str, split: str
) -> None:
    events = dataset.events()
    frozen = dataset.examples(split)
    drawn = draw(dataset, split, kind, 20)
    assert [(e.example_id, e.target, e.history) for e in drawn] == [
        (e.example_id, e.target, e.history) for e in frozen
    ]
    for example in drawn:
        assert len(set(example.candidates)) == 21
        assert set(example.candidates) & set(events[example.user_id]) == {example.target}
    slots = Counter(e.candidates.index(e.target) for e in drawn)
    assert max(slots.values()) - min(slots.values()) <= 1
    assert draw(dataset, split, kind, 20) == drawn


def test_the_events_are_histories_and_targets(dataset: Dataset) -> None:
    events = dataset.events()
    for example in dataset.examples("test"):
        own = events[example.user_id]
        assert own[-1] == example.target
        assert tuple(own[-1 - len(example.history) : -1]) == example.history


def test_popular_negatives_are_those_that_training_bought_most(dataset: Dataset) -> None:
    bought = Counter(i for items in dataset.events().values() for i in items[:-2])

    def mean_purchases(kind: str) -> float:
        drawn = draw(dataset, "test", kind, 5)
        negatives = [i for e in drawn for i in e.candidates if i != e.target]
        return sum(bought[i] for i in negatives) / len(negatives)

    # Drawn by purchases b, the mean is E[b^2] / E[b], which is E[b] only where all are alike.
    mean = sum(bought.values()) / len(dataset.items)
    expected = sum(b * b for b in bought.values()) / sum(bought.values())
    assert mean_purchases("uniform") == pytest.approx(mean, rel=0.1)
    assert mean_purchases("popular") == pytest.approx(expected, rel=0.1)
    assert expected > 1.1 * mean


def test_negatives_of_a_category_are_of_the_targets(dataset: Dataset) -> None:
    sizes = Counter(item.categories[-1] for item in dataset.items.values())
    drawn = draw(dataset, "test", "category", 5)
    for example in drawn:
        category = dataset.items[example.target].categories[-1]
        assert sizes[category] >= 15
        assert {dataset.items[i].categories[-1] for i in example.candidates} == {category}


def test_a_category_that_is_too_small_is_filled_up_with_others(dataset: Dataset) -> None:
    # 100 negatives are more than any category holds.
    drawn = draw(dataset, "test", "category", 100)
    assert {len(set(e.candidates)) for e in drawn} == {101}


def test_the_number_is_the_datasets_where_none_is_given(dataset: Dataset) -> None:
    drawn = draw(dataset, "test", "uniform", None)
    assert {len(e.candidates) for e in drawn} == {6}


def test_more_than_the_catalogue_holds_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"lower evaluate\.num_negatives"):
        draw(dataset, "test", "uniform", len(dataset.items))


def test_a_dataset_without_events_says_what_to_do(tmp_path: Path) -> None:
    bare = Dataset(str(tmp_path), {"seed": 0}, {})
    with pytest.raises(DataError, match=rf"{USERS_FILE}: missing.*prepare` again"):
        bare.events()


def test_a_number_without_a_way_to_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs negatives"):
        load_config(None, ["evaluate.num_negatives=20"])
