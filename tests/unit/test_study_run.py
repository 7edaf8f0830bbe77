"""Running a study: its plan, what is trained, resuming, the choice of rates, and its page."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msrrec.config import RunConfig, load_config
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.hits import group_hits, read_hits
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.study_results import StudyResult
from msrrec.pipeline import study as pipeline
from msrrec.pipeline.points import find_places
from msrrec.pipeline.study_costs import measure_cost
from msrrec.pipeline.study_plan import plan_study
from msrrec.processor import processor_name
from msrrec.report.load import load_results
from msrrec.report.study import render_study
from msrrec.stage import Call
from tests.support.arms import fake_training
from tests.support.cli import Commands
from tests.support.evaluation import NUM_USERS, write_evaluated_users
from tests.support.hits import rows_of, write_hits

SMALL = {
    "study": {
        "arms": ["none", "chain"],
        "orders": ["history_first"],
        "seeds": [0, 1],
        "references": ["random"],
    }
}


class Bench:
    """A prepared dataset, and what was trained on it."""

    def __init__(self, folder: Path) -> None:
        write_evaluated_users(folder / "shop")
        self.folder, self.out = folder, folder / "study"
        self.trained: list[tuple[str, int, float]] = []
        self.killed_at = 10**6

    def note(self, config: RunConfig) -> None:
        if len(self.trained) == self.killed_at:
            raise KeyboardInterrupt
        train = config.train
        self.trained.append((train.arm, train.seed, train.learning_rate))

    def run(self, **sections: Any) -> dict[str, Any]:
        config = RunConfig.model_validate({**SMALL, **sections})
        return pipeline.run_study([str(self.folder / "shop")], str(self.out), config, {})

    def plan(self, **sections: Any) -> dict[str, Any]:
        config = RunConfig.model_validate({**SMALL, **sections})
        return plan_study([str(self.folder / "shop")], str(self.out), config)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)

    def synthesize(call: Call) -> dict[str, Any]:
        Path(call.out).mkdir(parents=True)
        (Path(call.out) / "paths.parquet").write_bytes(b"paths")
        return {}

    fake_training(monkeypatch, made.note)
    monkeypatch.setattr("msrrec.pipeline.work.synthesize", synthesize)
    monkeypatch.setattr("msrrec.pipeline.work.check_synthesize", lambda _: None)
    monkeypatch.setattr(pipeline, "ray_session", lambda *_: contextlib.nullcontext())
    return made


def test_a_study_trains_every_arm_with_every_seed_and_ends_in_a_verdict(bench: Bench) -> None:
    summary = bench.run()
    rate = RunConfig().train.learning_rate
    assert bench.trained == [(a, s, rate) for s in (0, 1) for a in ("none", "chain")]
    assert next(iter(summary)) == "verdict"
    assert "shop: reasoning is not shown to differ, +0.0 points" in summary["verdict"]
    assert f"{NUM_USERS} users, 2 seeds" in summary["verdict"]
    hits = group_hits(read_hits([str(bench.out / "hits.parquet")]))
    assert {(cell.arm, cell.reading) for cell in hits} == {("none", "direct"), ("chain", "full")}
    result = StudyResult.load(str(bench.out))
    _, chain = result.datasets[0].arms
    assert chain.cost is not None
    assert (chain.cost.supervised_reasoning, chain.cost.learning_rate) == (40, rate)
    assert chain.cost.generated_per_user is not None
    assert [row.label for row in result.datasets[0].references] == ["random"]
    page = Path(summary["page"]).read_text()
    for words in (summary["verdict"], "chain − none", "Bayes", "Planned before the run: With 12"):
        assert (words in page) == (words != "Bayes"), words  # no generated world, no ceiling
    table = Path(summary["table"]).read_text()
    assert "\n    msrrec prepare --source None --out shop" in table
    assert "\n    msrrec study --dataset shop --out OUT " in table
    assert "study.arms=" in table
    assert "), in the runs that finished the evaluations. Data: shop " in table
    assert f"cores ({processor_name()})" in table


def test_a_killed_study_goes_on_where_it_was(bench: Bench) -> None:
    bench.killed_at = 3
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert StudyResult.load(str(bench.out)).datasets[0].arms[0].seeds == (0,)  # after each seed
    plan = bench.plan()
    assert (plan["trainings"], plan["evaluations"]) == (
        {"total": 4, "finished": 3},
        {"total": 4, "finished": 3},
    )
    assert plan["datasets"] == plan["references"] == {"total": 1, "finished": 1}
    bench.killed_at = 10**6
    summary = bench.run()
    assert [(arm, seed) for arm, seed, _ in bench.trained] == [
        *(("none", 0), ("chain", 0), ("none", 1), ("chain", 1))
    ]
    assert "2 seeds" in summary["verdict"]


def test_seconds_of_a_run_that_was_killed_and_continued_are_unknown(bench: Bench) -> None:
    bench.run()
    result, *_ = [
        EvaluationResult.load(str(path)) for path in (bench.out / "shop/systems").glob("chain-*")
    ]
    assert result.model is not None
    assert result.speed is not None
    first = measure_cost([result])
    assert first.train_s is not None
    assert first.evaluate_s is not None
    resumed = result.speed.model_copy(update={"num_resumed": 1})
    second = measure_cost([result.model_copy(update={"speed": resumed})])
    assert (second.evaluate_s, second.train_s) == (None, first.train_s)
    record = Path(result.model.model_dir) / "run.json"
    for summary in ({"steps_resumed": 3}, {}):  # an earlier version did not record it
        record.write_text(json.dumps({**json.loads(record.read_text()), "summary": summary}))
        assert measure_cost([result]).train_s is None
        assert measure_cost([result]).learning_rate == first.learning_rate
    assert bench.plan()["is_measured"]  # by the other models
    page = Path(bench.run()["page"]).read_text()
    assert "mean over the seeds that ran in one go" in page


def test_a_finished_study_is_told_again_without_any_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.run()

    def no_ray(*_: object) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(pipeline, "ray_session", no_ray)
    assert bench.run() == first
    assert len(bench.trained) == 4


def test_rates_are_chosen_once_with_the_first_seed(bench: Bench) -> None:
    rates = {"arm_learning_rates": [0.001, 0.01], "arm_validation_users": 5}
    before = bench.plan(baselines=rates)
    assert before["trainings"] == {"total": 6, "finished": 0}
    assert before["validations"] == {"total": 4, "finished": 0}
    bench.run(baselines=rates)
    assert bench.trained == [
        *(("none", 0, 0.001), ("none", 0, 0.01), ("chain", 0, 0.001), ("chain", 0, 0.01)),
        *(("none", 1, 0.01), ("chain", 1, 0.01)),  # at 0.001 no answer was valid
    ]
    trials = sorted(bench.out.glob("shop/models/*-validation/report/metrics.json"))
    assert [json.loads(path.read_text())["num_users"] for path in trials] == [5] * 4
    after = bench.plan(baselines=rates)
    assert after["trainings"] == {"total": 6, "finished": 6}
    assert (after["validations"]["finished"], after["seconds_left"]) == (4, 0)
    assert after["is_measured"]


def test_with_one_rate_a_seed_may_come_before_those_that_are_finished(bench: Bench) -> None:
    rates = {"arm_learning_rates": [0.01]}
    bench.run(baselines=rates, study={**SMALL["study"], "seeds": [2]})
    further = {**SMALL["study"], "seeds": [1, 2]}
    plan = bench.plan(baselines=rates, study=further)
    assert plan["trainings"] == plan["evaluations"] == {"total": 4, "finished": 2}
    bench.run(baselines=rates, study=further)
    assert len(list(bench.out.glob("shop/systems/*/report/metrics.json"))) == 5  # and a reference
    assert [(arm, seed) for arm, seed, _ in bench.trained] == [
        *(("none", 2), ("chain", 2), ("none", 1), ("chain", 1))
    ]


def test_an_arm_answering_directly_shares_the_model_of_the_chains(bench: Bench) -> None:
    study = {**SMALL["study"], "arms": ["none", "chain", "direct"], "seeds": [0]}
    assert bench.plan(study=study)["trainings"]["total"] == 2
    bench.run(study=study)
    assert [arm for arm, _, _ in bench.trained] == ["none", "chain"]
    (dataset,) = StudyResult.load(str(bench.out)).datasets
    assert [(arm.arm, arm.reading) for arm in dataset.arms] == [
        *(("none", "direct"), ("chain", "full"), ("direct", "direct"))
    ]


@pytest.mark.parametrize(("rate", "further"), [(0.01, 2), (0.02, 3)])
def test_the_plan_counts_a_model_more_where_direct_is_best_at_another_rate(
    bench: Bench, rate: float, further: int
) -> None:
    study = {**SMALL["study"], "arms": ["none", "direct", "chain"], "seeds": [0, 1]}
    # at the first rate nothing names a candidate, at 0.02 all but direct; the first best is taken
    rates = {"arm_learning_rates": [0.001, rate, 0.03]}
    given = {"study": study, "baselines": rates}
    before = bench.plan(**given)
    assert (before["trainings"], before["more_trainings"]) == ({"total": 8, "finished": 0}, 1)
    bench.killed_at = 6  # all rates of the first seed
    with pytest.raises(KeyboardInterrupt):
        bench.run(**given)
    between = bench.plan(**given)
    total = 6 + further
    assert between["trainings"] == {"total": total, "finished": 6}
    bench.killed_at = 10**6
    bench.run(**given)
    after = bench.plan(**given)
    assert len(bench.trained) == total
    assert after["trainings"] == {"total": total, "finished": total}
    assert (between["more_trainings"], after["more_trainings"]) == (0, 0)
    assert after["validations"] == {"total": 9, "finished": 9}
    assert after["seconds_left"] == 0


def test_both_orders_are_studied_with_the_same_reasoning(bench: Bench) -> None:
    orders = ["history_first", "candidates_first"]
    bench.run(study={**SMALL["study"], "orders": orders, "seeds": [3]})
    assert len(bench.trained) == 4
    (dataset,) = StudyResult.load(str(bench.out)).datasets
    assert dataset.orders == tuple(orders)
    assert [c.order for c in dataset.contrasts if c.is_primary] == [None, *orders]
    assert len(list(bench.out.glob("shop/reasoning/run.json"))) == 1


def test_a_failing_point_is_told_and_leaves_the_rest(bench: Bench) -> None:
    def fail(config: RunConfig) -> None:
        if (config.train.arm, config.train.seed) == ("chain", 1):
            raise ConfigError("no room")
        bench.trained.append(("", 0, 0))

    bench.note = fail  # type: ignore[method-assign]
    summary = run_noting(bench)
    assert summary["failures"] == {"shop/history_first/chain/seed 1": "no room"}
    assert f"{NUM_USERS} users, 1 seed" in summary["verdict"]  # the seed that both arms have
    assert "1 evaluations are missing" in Path(summary["page"]).read_text()


def run_noting(bench: Bench) -> dict[str, Any]:
    """Run with the note that the bench has now."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_training(monkeypatch, bench.note)
        return bench.run()


def test_where_every_arm_fails_the_first_reason_is_raised(bench: Bench) -> None:
    def fail(config: RunConfig) -> None:
        raise ConfigError("no room")

    bench.note = fail  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"no arm .* shop/history_first/none/seed 0: no room"):
        run_noting(bench)


def test_a_report_leaves_the_evaluations_of_a_study_out(bench: Bench) -> None:
    bench.run()

    with pytest.raises(DataError, match="found no"):
        load_results(str(bench.folder))


def test_worlds_are_planned_before_they_are_made(tmp_path: Path) -> None:
    whole = RunConfig.model_validate({"baselines": {"arm_learning_rates": [1, 2, 3]}})
    plan = plan_study([], str(tmp_path), whole)
    # 3 worlds, 2 orders; 5 trained arms, 5 seeds and 2 more rates; 6 arms on validation at 3 rates
    assert plan["datasets"] == {"total": 3, "finished": 0}
    assert plan["trainings"] == {"total": 6 * 5 * 7, "finished": 0}
    assert plan["validations"] == {"total": 6 * 6 * 3, "finished": 0}
    assert plan["evaluations"] == {"total": 6 * 6 * 5, "finished": 0}
    assert not plan["is_measured"]
    assert plan["power"]["num_users"] == RunConfig().data.num_users
    assert "users and 5 seeds" in plan["power"]["sentence"]


def test_a_world_and_its_reasoning_have_a_folder_of_their_own(tmp_path: Path) -> None:
    first, *rest = find_places([], str(tmp_path), load_config("study"))
    assert (first.name, first.config.data.demo_world) == ("mixture", "mixture")
    assert first.dataset == str(tmp_path / "mixture" / "dataset")
    assert first.reasoning == str(tmp_path / "mixture" / "reasoning")
    assert [place.name for place in rest] == ["transitions", "unnamed"]


def test_datasets_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 folders with 1 names"):
        find_places(["a/shop", "b/shop"], str(tmp_path), RunConfig())


def test_settings_that_repeat_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"study\.seeds: values must differ"):
        load_config("study", ["study.seeds=[1,1]"])


def test_hits_of_another_script_get_their_verdict_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*rows_of("chain", {0: "h" * 20}), *rows_of("none", {0: "m" * 15 + "h" * 5})]
    path, out = write_hits(tmp_path / "hits.parquet", rows), tmp_path / "out"
    ended = Commands(monkeypatch, capsys)("study", "--hits", path, "--out", str(out))
    assert ended.code == 0, ended.err
    assert ended.out.startswith('{"verdict": "Reasoning against purchases alone, HitRatio@1: w: ')
    assert "w: reasoning helps: +75.0 points" in ended.err
    assert "reasoning helps, +75.0 points" in (out / "index.html").read_text()
    table = (out / "table.md").read_text()
    assert "| none | purchases alone (direct) | 0.2500 [" in table
    assert "| **chain − none** | +75.0 [" in table
    assert table.endswith("\n    msrrec study --hits FILE --out OUT\n")
    assert not (out / "w").exists()


def test_a_hit_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    rows = rows_of("chain", {0: "hm"})
    path = str(tmp_path / "hits.parquet")
    pq.write_table(pa.Table.from_pylist([rows[0], {**rows[1], "hit": None}]), path)
    with pytest.raises(DataError, match="column 'hit' has rows without a value"):
        read_hits([path])


def test_a_dry_run_shows_the_plan_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ended = Commands(monkeypatch, capsys)("study", "--out", str(out), "--dry-run")
    assert ended.summary["evaluations"] == {"total": 3 * 4 * 3, "finished": 0}
    assert ended.summary["seconds_left"] > 0
    assert "minutes left" in ended.err
    assert not out.exists()


def test_a_dry_run_counts_the_purchases_of_a_dataset(bench: Bench) -> None:
    config = {"train": {"sides": ["item"], "num_epochs": 1}, "study": {**SMALL["study"]}}
    known = bench.plan(**config)["train_s"]
    assert known == bench.plan(**config, data={"train_examples_per_user": 0})["train_s"]
    slow = {"study": {**SMALL["study"], "train_tokens_per_s": 1, "example_tokens": 100}}
    num_examples = pq.read_metadata(bench.folder / "shop" / "train.parquet").num_rows
    assert bench.plan(**{**config, **slow})["train_s"] == 40 + 100 * num_examples


def test_a_dry_run_says_that_no_verdict_is_to_come(bench: Bench) -> None:
    found = bench.plan(study={**SMALL["study"], "arms": ["chain", "direct"]})
    assert found["power"] == {
        "sentence": "nothing is decided, as no primary contrast has both arms; add none and chain"
    }


def test_a_dataset_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for run in (
        lambda: plan_study([str(tmp_path / "none")], str(tmp_path / "out"), RunConfig()),
        lambda: pipeline.run_study(
            [str(tmp_path / "none")], str(tmp_path / "out"), RunConfig(), {}
        ),
    ):
        with pytest.raises(DataError, match="expected a folder made by `msrrec prepare`"):
            run()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--hits", "FILE", "--dry-run"), "--hits: found --dry-run beside it"),
        (("--hits", "FILE", "--dataset", "shop"), "--hits: found --dataset beside it"),
        (("--reading", "full", "--dry-run"), "--reading: found no --hits"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = Commands(monkeypatch, capsys)("study", "--out", str(tmp_path / "out"), *words)
    assert ended.code == 2
    assert sentence in ended.err


def test_a_page_escapes_names_of_datasets() -> None:
    result = StudyResult(
        verdict="<script>", datasets=(), heterogeneity=None, power=None, failures={}
    )
    assert b"<script>" not in render_study(result)
