import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.base import Generation
from msrrec.errors import ConfigError, DataError, EngineError, ModelError
from msrrec.evaluation import evaluate as evaluation
from msrrec.evaluation.results import (
    AnchorScore,
    Errors,
    EvaluationResult,
    MetricScore,
    ReasoningScores,
)
from msrrec.evaluation.systems import SystemId
from msrrec.inference.codec import request_seed
from msrrec.metrics.statistics import Share
from msrrec.page import format_p
from msrrec.report.load import load_results, load_statistics
from msrrec.report.page import build_report, report_folder, summarize_report
from msrrec.report.results import PointVariant, ReportResult, SweepPoint, SweepResult
from msrrec.schema import Example
from tests.support.evaluation import (
    NASTY,
    NUM_USERS,
    predict_here,
    write_evaluated_model,
    write_evaluated_users,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_evaluated_users(tmp_path / "dataset")


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    return write_evaluated_model(tmp_path / "model")


@pytest.fixture
def folder(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Evaluations of two baselines and a model."""
    monkeypatch.setattr(evaluation, "predict", predict_here)
    out = tmp_path / "eval"
    for name in ("random", "popularity"):
        evaluation.evaluate_baseline(dataset, name, str(out / name), RunConfig())
    evaluation.evaluate(
        dataset, model_dir, str(out / "msrrec"), RunConfig(), ("user", "item", "fused")
    )
    return out


def read_metrics(folder: Path) -> EvaluationResult:
    return EvaluationResult.load(str(folder))


def test_what_a_killed_run_has_left_is_no_result(folder: Path) -> None:
    left = folder / "random.0a1b2c3d.partial"
    shutil.copytree(folder / "random", left)
    assert len(load_results(str(folder))) == 3


def test_every_variant_has_one_row_a_user_in_the_frozen_order(folder: Path) -> None:
    for variant in ("user", "item", "fused"):
        path = str(folder / "msrrec" / "predictions" / f"{variant}.parquet")
        rows = storage.read_table(path, schema.PREDICTIONS).to_pylist()
        assert [row["example_id"] for row in rows] == [f"e{n:02d}" for n in range(NUM_USERS)]
    assert [row["side"] for row in rows[:4]] == ["user", "user", "user", "user"]
    assert {row["item_id"] for row in rows} == {"right"}
    assert rows[3]["seed"] == request_seed(0, "e03", "user")


def test_invalid_outputs_stay_in_the_rows(folder: Path) -> None:
    path = str(folder / "msrrec" / "predictions" / "item.parquet")
    rows = storage.read_table(path, schema.PREDICTIONS).to_pylist()
    # The target stands first for every third user, and there the item side names none.
    assert [row["item_id"] for row in rows[:4]] == [None, "wrong", "wrong", None]
    assert rows[0]["text"] == "[reasoning_start]\nUndecided"
    assert rows[0]["num_tokens"] == len("Undecided")


def test_metrics_count_what_the_rows_say(folder: Path) -> None:
    metrics = read_metrics(folder / "msrrec")
    assert metrics.chance == pytest.approx(1 / 3)
    assert metrics.variants["user"].num_hits == 12
    assert metrics.variants["item"].num_hits == 0
    assert metrics.variants["item"].num_valid == 8
    assert metrics.variants["fused"].hit_ratio.value == 1.0
    assert metrics.fusion is not None
    assert metrics.fusion.by_agreement["one_valid"].num_users == 4
    assert metrics.fusion.by_agreement["differ"].user_wins == 8
    assert metrics.fusion.gain == 0
    # fused against item: 12 against 0, two-sided binomial: 2 / 2**12
    against_item = next(p for p in metrics.paired if p.second == "item")
    assert (against_item.first_only, against_item.second_only) == (12, 0)
    assert against_item.p_value == pytest.approx(2 / 2**12)
    assert metrics.errors == Errors(num_refused=0, first=())


def test_an_evaluation_names_its_system_by_what_it_is(
    folder: Path, dataset: Dataset, model_dir: str
) -> None:
    found = {name: read_metrics(folder / name).system for name in ("random", "msrrec")}
    assert found["random"] == SystemId(id="random", kind="baseline", label="random", paper_row=None)
    assert found["msrrec"] == SystemId(
        id="msrrec", kind="trained", label="model", paper_row="MSR-Rec (8B)"
    )
    settings = json.loads((Path(model_dir) / "config.json").read_text())
    settings["train"] = {"reasoning": False}
    (Path(model_dir) / "config.json").write_text(json.dumps(settings))
    constrained = RunConfig.model_validate({"inference": {"constrained": True}})
    for out, config in (("plain", RunConfig()), ("bound", constrained)):
        path = str(folder / out)
        evaluation.evaluate(dataset, model_dir, path, config, ("user",), name="TALLRec")
    plain, bound = (read_metrics(folder / name).system for name in ("plain", "bound"))
    assert (plain.id, plain.label) == ("msrrec-without-reasoning", "TALLRec")
    assert plain.paper_row == "MSR-Rec w/o reason"
    assert (bound.id, bound.paper_row) == ("msrrec-without-reasoning-constrained", None)


def test_cases_are_the_first_of_each_kind(folder: Path) -> None:
    cases = read_metrics(folder / "msrrec").cases
    assert [(c.example_id, c.agreement, c.is_hit) for c in cases] == [
        ("e00", "one_valid", True),
        ("e01", "differ", True),
    ]
    assert cases[1].candidates[cases[1].target].startswith("Right")


def test_a_baseline_writes_the_same_files(folder: Path) -> None:
    path = str(folder / "popularity" / "predictions" / "popularity.parquet")
    rows = storage.read_table(path, schema.PREDICTIONS).to_pylist()
    # In training everybody bought the right item.
    assert {row["item_id"] for row in rows} == {"right"}
    assert read_metrics(folder / "popularity").variants["popularity"].num_hits == 12


def test_the_number_of_users_can_be_limited(tmp_path: Path, dataset: Dataset) -> None:
    config = RunConfig.model_validate({"evaluate": {"num_users": 5}})
    summary = evaluation.evaluate_baseline(dataset, "random", str(tmp_path / "few"), config)
    assert summary["num_users"] == 5


def test_a_failing_engine_leaves_nothing(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Generation:
        raise EngineError("the engine died")

    monkeypatch.setattr(evaluation, "predict", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EngineError):
        evaluation.evaluate(dataset, model_dir, str(tmp_path / "out"), RunConfig(), ("user",))
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_baselines_and_no_variants_are_refused(
    tmp_path: Path, dataset: Dataset, model_dir: str
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="baseline 'best': is unknown; expected one of random"):
        evaluation.evaluate_baseline(dataset, "best", out, RunConfig())
    with pytest.raises(ConfigError, match="variants: found none"):
        evaluation.evaluate(dataset, model_dir, out, RunConfig(), ())


def test_the_median_perplexity_of_twelve_outputs_lies_between_the_middle_two(
    tmp_path: Path, dataset: Dataset, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*given: Any, **more: Any) -> Iterator[Any]:
        for part, made in predict_here(*given, **more):
            sure = (replace(p.output, perplexity=n + 1.0) for n, p in enumerate(made))
            yield part, [replace(p, output=output) for p, output in zip(made, sure, strict=True)]

    monkeypatch.setattr(evaluation, "predict", predict)
    evaluation.evaluate(dataset, model_dir, str(tmp_path / "out"), RunConfig(), ("user",))
    found = read_metrics(tmp_path / "out").sides["user"]
    assert (found.num_outputs, found.median_perplexity) == (12, 6.5)


class Diverged:
    """A baseline whose training diverged."""

    def fit(self, dataset: Dataset, folder: str) -> None:
        """Learn nothing."""

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        return [[math.nan, 1.0, 2.0, 0.5][: len(example.candidates)] for example in examples]


def test_scores_that_are_no_numbers_are_refused_and_choose_nothing(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "build_baseline", lambda *_: Diverged())
    with pytest.raises(ModelError, match=r"gru4rec: the scores of e00 are .*expected finite"):
        evaluation.evaluate_baseline(dataset, "gru4rec", str(tmp_path / "out"), RunConfig())
    assert not (tmp_path / "out").exists()


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_every_system_and_compares_each_with_fusion(folder: Path) -> None:
    summary = report_folder(str(folder))
    assert [(row["system"], row["variant"]) for row in summary["systems"]] == [
        ("random", "random"),
        ("popularity", "popularity"),
        ("model", "user"),
        ("model", "item"),
        ("model", "fused"),
    ]
    by_label = {row["label"]: row for row in summary["systems"]}
    assert by_label["model · fused"]["paired"] is None
    assert by_label["model · item"]["paired"]["first_only"] == 12
    same = {
        "first_only": 0,
        "second_only": 0,
        "p_value": 1.0,
        "p_adjusted": 1.0,
        "detectable": None,
    }
    same |= {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert by_label["popularity"]["paired"] == same
    # 12 against 0 of 12 users, the smallest of four p-values: four times 2 / 2**12
    assert by_label["model · item"]["paired"]["p_adjusted"] == pytest.approx(8 / 2**12)
    page = Page((folder / "report" / "index.html").read_text())
    for text in (
        "random",
        "popularity",
        "model · fused",
        "1.0000",
        "Training of model",
        "e01",
        "(negatives: frozen)",
    ):
        assert text in page.text
    assert re.search(r"it is better than [^.]*model · item", page.text)
    assert re.search(r"no difference is shown from [^.]*popularity", page.text)
    results = ReportResult.load(str(folder))
    assert summarize_report(results, str(folder)) == summary
    assert {row.rule: row.num_hits for row in results.fusion_study} == {
        "user": 12,
        "item": 0,
        "eq3": 12,
        "min": 12,
        "max": 12,
        "joint": 4,
        "coin": 8,
        "eq3_output": 12,
        "oracle": 12,
    }


def test_failed_checks_stand_on_the_page_and_in_the_summary(folder: Path) -> None:
    # Everybody's training example is the test example itself, and no backbone is evaluated.
    summary = report_folder(str(folder))
    leaked = "no target is in its user's history or training examples: not so for e00, e01, e02"
    assert any(leaked in warning for warning in summary["warnings"])
    page = Page((folder / "report" / "index.html").read_text())
    assert leaked in page.text
    assert "evaluated beside trained ones: not so for the untrained backbone" in page.text


def test_titles_and_model_text_reach_the_page_as_text(folder: Path) -> None:
    report_folder(str(folder))
    text = (folder / "report" / "index.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert f"Right {NASTY}" in page.text  # a title
    assert f"Step 1. {NASTY}" in page.text  # what a model wrote
    assert f"on Home {NASTY}" in page.text  # a domain


def test_the_page_loads_nothing_from_anywhere(folder: Path) -> None:
    report_folder(str(folder))
    text = (folder / "report" / "index.html").read_text()
    page = Page(text)
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert not {"src", "href", "srcset"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?://", text)


def test_further_seeds_show_the_spread_and_no_further_rows(
    folder: Path, dataset: Dataset, model_dir: str
) -> None:
    config = RunConfig.model_validate({"inference": {"seed": 1}})
    evaluation.evaluate(dataset, model_dir, str(folder / "msrrec-1"), config, ("fused",))
    summary = report_folder(str(folder))
    assert len(summary["systems"]) == 5
    seeds = ReportResult.load(str(folder)).seeds
    fused = next(group for group in seeds if group.label == "model · fused")
    assert fused.values == {0: 1.0, 1: 1.0}
    assert (fused.mean, fused.sd) == (1.0, 0.0)


def test_two_systems_of_one_name_and_seed_are_two_rows(
    folder: Path, dataset: Dataset, model_dir: str
) -> None:
    evaluation.evaluate(dataset, model_dir, str(folder / "other"), RunConfig(), ("fused",))
    report_folder(str(folder))
    rows = ReportResult.load(str(folder)).systems
    fused = [row.label for row in rows if row.variant == "fused"]
    assert fused == ["model · fused", f"model · fused ({folder / 'other'})"]
    assert not ReportResult.load(str(folder)).seeds


def test_scored_reasonings_reach_the_tables_and_the_cases(folder: Path) -> None:
    share = Share(0.4321, 0.4, 0.5)
    scores = ReasoningScores(
        references="r",
        num_references=3,
        num_users=12,
        notes={"meteor": "NLTK, without WordNet"},
        judge=None,
        variants={"fused": {"meteor": MetricScore(all=share, correct=share, num_users=3)}},
        cases={"e00": f"A teacher's path {NASTY}"},
        anchors={
            "another user's": {"meteor": AnchorScore(mean=share, num_pairs=3)},
            "restated": {"meteor": AnchorScore(mean=Share(0.0841, 0.0, 0.1), num_pairs=3)},
        },
    )
    scores.save(str(folder / "msrrec"))
    report_folder(str(folder))
    page = Page((folder / "report" / "index.html").read_text())
    assert page.text.count("0.4321") == 4  # Tables 3 and 4, the system and another user's
    assert page.text.count("0.0841") == 1  # a correct text in other words
    assert "NLTK, without WordNet" in page.text
    assert f"A teacher's path {NASTY}" in page.text


def test_the_papers_tables_stand_beside_ours(folder: Path) -> None:
    report_folder(str(folder))
    page = Page((folder / "report" / "index.html").read_text())
    for printed in ("0.4453", "0.9653", "0.0812", "0.5574", "82.35", "0.4220", "+30.97%"):
        assert printed in page.text


def test_the_size_of_our_dataset_stands_beside_the_papers(folder: Path, dataset: Dataset) -> None:
    report_folder(str(folder))
    text = Page((folder / "report" / "index.html").read_text()).text
    assert "9,755" in text
    assert "ours, " not in text.partition("Table 1")[2].partition("paper, Electronics")[0]
    assert "no longer where it was evaluated" in text
    file = Path(dataset.path) / "manifest.json"
    sizes = {"num_users": 12, "num_items": 1_234, "num_interactions": 5_678, "density": 0.38345}
    file.write_text(json.dumps({**json.loads(file.read_text()), **sizes}))
    (sizes_found,) = load_statistics(load_results(str(folder)))
    assert (sizes_found.num_items, sizes_found.density) == (1_234, 0.38345)
    report_folder(str(folder))
    text = Page((folder / "report" / "index.html").read_text()).text
    row = text.partition("Table 1")[2].partition("paper, Electronics")[0]
    assert [shown in row for shown in ("ours, Home", "1,234", "5,678", "38.345%")] == [True] * 4
    assert "no longer where it was evaluated" not in text
    file.write_text(json.dumps({**json.loads(file.read_text()), "fingerprint": "other"}))
    assert load_statistics(load_results(str(folder))) == []


def test_a_second_report_does_not_count_the_first_as_a_system(folder: Path) -> None:
    first = report_folder(str(folder))
    assert report_folder(str(folder)) == first


def test_a_single_baseline_makes_a_page_too(folder: Path) -> None:
    rows = report_folder(str(folder / "random"))["systems"]
    assert [row["system"] for row in rows] == ["random"]


def test_a_sweep_is_a_figure_and_its_points_are_no_systems(folder: Path) -> None:
    before = report_folder(str(folder))
    share = Share(0.5, 0.4, 0.6)
    point = SweepPoint(
        alpha=0.7,
        beta=0.3,
        folder="alpha-0.7",
        loss_rea=1.0,
        loss_rec=1.0,
        num_users=40,
        chance=0.2,
        variants={"full": PointVariant(hit_ratio=share, valid_ratio=share)},
    )
    SweepResult(split="validation", points=(point,), best_alpha={"full": 0.7}).save(
        str(folder / "sweep")
    )
    (folder / "random").rename(folder / "sweep" / "alpha-0.7")
    after = report_folder(str(folder))
    labels = [row["label"] for row in before["systems"]]
    assert [row["label"] for row in after["systems"]] == labels[1:]
    page = Path(after["page"]).read_text()
    assert "full, best at α = 0.7" in page
    assert "The other panel, GPTScore, needs" in page
    assert "0.7/0.3 is best. That point has the settings of Table 4: Electronics 0.4453" in page
    assert "0.7/0.3" in page


def test_systems_on_other_users_are_shown_but_not_compared(folder: Path, dataset: Dataset) -> None:
    config = RunConfig.model_validate({"evaluate": {"num_users": 5}})
    evaluation.evaluate_baseline(dataset, "random", str(folder / "few"), config)
    page = str(folder / "report" / "index.html")
    rows = build_report(load_results(str(folder)), page).systems
    assert [row.paired is None for row in rows if row.num_users == 5] == [True]


def test_a_folder_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no report/metrics.json below it"):
        report_folder(str(tmp_path))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text('{"kind": "other"}')
    with pytest.raises(DataError, match="not an evaluation"):
        report_folder(str(tmp_path))
    assert not (tmp_path / "report" / "index.html").exists()


def test_figures_of_another_schema_version_are_refused_in_a_sentence(folder: Path) -> None:
    file = folder / "msrrec" / "report" / "metrics.json"
    metrics = json.loads(file.read_text())
    del metrics["schema_version"]
    file.write_text(json.dumps(metrics))
    with pytest.raises(DataError) as error:
        report_folder(str(folder))
    assert str(error.value) == (
        f"{file}: has schema version none; expected 2; run `msrrec evaluate` again with --overwrite"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "p < 0.001"), (0.0009, "p < 0.001"), (0.0573, "p = 0.057")]
)
def test_a_p_value_is_never_zero(value: float, text: str) -> None:
    assert format_p(value) == text
