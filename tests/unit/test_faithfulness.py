from collections.abc import Callable
from pathlib import Path

import pytest

from bench.reasons import render
from msrrec.config import InferenceConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError, ModelError
from msrrec.evaluation.faithfulness import measure_faithfulness
from msrrec.evaluation.interventions import FaithfulnessResult, InterventionResult
from msrrec.evaluation.results import AnchorScore, MetricScore, ReasoningScores
from msrrec.evaluation.trials import Case, find_cited
from msrrec.inference.recommender import Recommender
from msrrec.metrics.statistics import Share
from msrrec.models import ModelSource
from msrrec.reasoning.edits import Span, find_steps, name_other, paraphrase
from msrrec.reasoning.encoding import Query
from msrrec.report.load import load_result
from msrrec.report.page import report_folder
from msrrec.schema import Item
from tests.support.chains import (
    CHAIN,
    STEPS,
    TITLES,
    follow_chain,
    write_answer,
    write_chains,
    write_model,
    write_shop,
)
from tests.support.engine import FakeEngine, recommender
from tests.support.results import evaluation_result, system_id, variant_result


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_shop(tmp_path)


@pytest.fixture
def evaluation(tmp_path: Path) -> str:
    return write_chains(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return write_model(tmp_path)


def ignore_chain(prompt: str, seed: int) -> str:
    """Always the first candidate, whatever the chain says."""
    return write_answer(prompt, 0)


def measure(
    answer: Callable[[str, int], str],
    dataset: Dataset,
    evaluation: str,
    model: str,
    **asked: object,
) -> dict[str, InterventionResult]:
    def build(source: ModelSource, config: InferenceConfig) -> Recommender:
        return recommender(FakeEngine(answer), config)

    config = RunConfig.model_validate({"evaluate": asked})
    measure_faithfulness(dataset, evaluation, model, config, build=build)
    return {row.name: row for row in FaithfulnessResult.load(evaluation).rows}


def changed(row: InterventionResult) -> float:
    assert row.changed is not None
    return row.changed.value


def test_choices_that_follow_from_chains_change_with_them(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    rows = measure(follow_chain, dataset, evaluation, model)
    shares = {name: changed(row) for name, row in rows.items()}
    assert shares == {
        "unchanged": 0,
        "continued": 0,
        "regenerated": 0,
        "cut_0": 0,  # without a number the pan in the history decides, as it does for the chain
        "cut_1": 0,
        "cut_2": 1,  # the last number of step 2 is (3)
        "cut_3": 0,
        "cut_4": 0,
        "mistake": 1,
        "paraphrase": 0,
        "filler": 0,
        "random_removed": 0,  # of three purchases only the tent is not cited
        "cited_removed": 1,  # the pan is the latest purchase of the kitchen
        "shuffled": 0,
    }
    assert rows["mistake"].followed is not None
    assert rows["mistake"].followed.value == 1
    assert rows["cut_2"].hit_ratio is not None
    assert rows["cut_2"].hit_ratio.value == 0
    against = rows["cited_removed"].against
    assert rows["cited_removed"].control == "random_removed"
    assert against is not None
    assert (against.first_only, against.second_only) == (7, 0)
    assert against.p_value == pytest.approx(2 / 2**7)  # exact McNemar, seven of seven
    # Eleven tests; three have this p-value, and the first of them is multiplied by eleven.
    assert rows["cited_removed"].p_adjusted == pytest.approx(11 * 2 / 2**7)


def test_choices_that_ignore_their_chains_never_change(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    rows = measure(ignore_chain, dataset, evaluation, model)
    assert {changed(row) for row in rows.values()} == {0}
    assert rows["mistake"].followed is not None
    assert rows["mistake"].followed.value == 0
    result = FaithfulnessResult.load(evaluation)
    assert (result.num_evaluated, result.num_whole, result.num_users) == (8, 7, 7)
    assert result.hit_ratio is not None
    assert result.hit_ratio.value == 1


def test_only_what_is_asked_for_is_changed_with_its_controls(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    rows = measure(
        follow_chain, dataset, evaluation, model, interventions=["mistake"], intervention_users=3
    )
    assert list(rows) == ["continued", "mistake"]
    assert rows["mistake"].num_users == 3


def test_the_page_shows_how_often_choices_changed(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    measure(follow_chain, dataset, evaluation, model)
    report_folder(evaluation)
    page = (Path(evaluation) / "report" / "index.html").read_text()
    assert "Do the choices follow from the chains?" in page
    assert "chain cut after step 2 of 5" in page
    assert "the cited purchases left out" in page
    assert "100.0% without the cited purchases (control 0.0%)" in page


def test_the_tables_of_reasons_show_every_figure(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    measure(follow_chain, dataset, evaluation, model)
    share = Share(0.4321, 0.4, 0.5)
    ReasoningScores(
        references="r",
        num_references=3,
        num_users=8,
        notes={"meteor": "NLTK"},
        judge=None,
        variants={"user": {"meteor": MetricScore(all=share, correct=None, num_users=3)}},
        cases={},
        anchors={"another user's": {"meteor": AnchorScore(mean=None, num_pairs=0)}},
    ).save(evaluation)
    lines = render([("shop", load_result(evaluation))]).splitlines()
    assert "## shop" in lines
    assert "| user | 0.4321 [0.400, 0.500] |" in lines
    assert "| another user's reference: right form, wrong content | – |" in lines
    assert any(line.startswith("Against the 3 of 8 users") for line in lines)
    (cited,) = [line for line in lines if line.startswith("| the cited purchases left out")]
    # seven of seven choices change, none without purchases that are not cited
    assert cited.count("1.0000 [0.646, 1.000]") == 1
    assert cited.count("0.0000 [0.000, 0.354]") == 2  # the control, and HitRatio@1 afterwards
    assert "| 0.172 |" in cited  # eleven times 2 / 2^7
    (mistake,) = [line for line in lines if line.startswith("| another candidate named")]
    assert mistake.count("1.0000 [0.646, 1.000]") == 2  # they change, and to what it names


def test_an_evaluation_without_chains_or_of_another_dataset_is_refused(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    with pytest.raises(DataError, match=r"found the variants full; expected user"):
        measure_faithfulness(dataset, evaluation, model, RunConfig(), "user")
    dataset.manifest["fingerprint"] = "other"
    other = Dataset(dataset.path, {**dataset.manifest}, dataset.items)
    with pytest.raises(DataError, match="give the dataset that was evaluated"):
        measure_faithfulness(other, evaluation, model, RunConfig())


def test_chains_of_another_model_are_not_changed(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    system = system_id("m", "trained")
    evaluation_result(system, {"full": variant_result()}, num_users=8, weights="abc").save(
        evaluation
    )
    with pytest.raises(ModelError, match="other weights than the evaluation of m"):
        measure_faithfulness(dataset, evaluation, model, RunConfig())


def test_a_reasoning_without_room_for_the_answer_is_cut(
    dataset: Dataset, evaluation: str, model: str
) -> None:
    lengths: list[int] = []

    def answer(prompt: str, seed: int) -> str:
        lengths.append(len(prompt))
        return write_answer(prompt, 0)

    def build(source: ModelSource, config: InferenceConfig) -> Recommender:
        few = config.model_copy(update={"max_new_tokens": 64})
        return recommender(FakeEngine(answer, max_model_len=1000), few)

    config = RunConfig.model_validate({"evaluate": {"interventions": ["filler", "mistake"]}})
    measure_faithfulness(dataset, evaluation, model, config, build=build)
    longest_answer = len("(3) Desk Lamp") + 1
    assert max(lengths) <= 1000 - longest_answer


@pytest.mark.parametrize(
    ("step", "cited"),
    [
        ("(1) Oak Lamp. It matches Doug.", [0, 2]),
        ("(1) Oak Lamp. It shares the word pattern.", [2]),
        ("(1) Oak Lamp. It matches doughnuts.", []),
        ("(1) Oak Lamp. There is no clear match.", []),
        ("(2) A tent that matches Doug. It matches Puzzle.", [1]),  # the former is a title
    ],
)
def test_a_shared_word_cites_the_purchases_that_have_it_where_nothing_else_does(
    step: str, cited: list[int]
) -> None:
    titles = ("Melissa & Doug Set", "Clear Puzzle", "Doug's Pattern Blocks")
    shown = ("Oak Lamp", "A tent that matches Doug")
    case = Case(
        query=Query("u", "Toys", titles, shown),
        shown=shown,
        purchases=tuple(Item(str(n), title) for n, title in enumerate(titles)),
        target=0,
        reasoning=step,
        steps=(Span(0, len(step)),),
        index=0,
    )
    assert find_cited(case) == cited


def test_steps_are_found_where_the_model_wrote_them() -> None:
    spans = find_steps(CHAIN, "full")
    assert spans is not None
    assert [CHAIN[span.begin : span.end] for span in spans] == list(STEPS)
    assert find_steps("Step 1. Preference Recognition: x", "full") is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("From Kitchen: (1), (2).", "From Kitchen: (2), (1)."),
        ("Red Stove beats Green Hat.", "Green Hat beats Red Stove."),
        ("From Kitchen: none.", "From Kitchen: none. (2) Green Hat matches best."),
    ],
)
def test_a_mistake_puts_another_candidate_in_the_place_of_the_chosen(
    step: str, expected: str
) -> None:
    assert name_other(step, 0, 1, TITLES) == expected


def test_a_paraphrase_keeps_titles_numbers_and_headings() -> None:
    text = "Step 3. Logic Matching: The user likes Best Pan. From Kitchen: (1)."
    assert paraphrase(text, ["Best Pan"]) == (
        "Step 3. Logic Matching: This customer is fond of Best Pan. Out of Kitchen: (1)."
    )
