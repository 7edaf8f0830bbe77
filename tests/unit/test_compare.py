import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from msrrec.baselines.interface import WrittenChoice
from msrrec.comparison import registry as comparison
from msrrec.comparison.compare import compare
from msrrec.comparison.registry import Run, find_systems
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation import evaluate as evaluation
from msrrec.evaluation.results import EvaluationResult
from msrrec.models import SupervisedTokens
from msrrec.report.results import ReportResult
from msrrec.schema import Example
from tests.support.arms import fake_training
from tests.support.evaluation import NASTY, NUM_USERS, predict_here, write_evaluated_users
from tests.support.models import write_safetensors


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    raise AssertionError("none of these systems needs Ray")
    yield


def run(folder: Path, names: str, config: RunConfig | None = None) -> dict[str, Any]:
    dataset = Dataset.load(str(folder / "dataset"))
    shared = Run(dataset, str(folder / "out"), config or RunConfig())
    return compare(names.split(","), shared, no_ray)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_evaluated_users(tmp_path / "dataset")
    return tmp_path


def test_one_table_has_every_system_with_intervals_and_tests(folder: Path) -> None:
    summary = run(folder, "random,popularity")
    assert [row["system"] for row in summary["systems"]] == ["random", "popularity"]
    table = (folder / "out" / "report" / "table.md").read_text()
    # The target is in everybody's training example and the wrong items in none.
    assert "| popularity | 1.0000 [0.758, 1.000] |" in table
    assert "--systems random,popularity" in table
    assert re.search(r"Seconds, .*: random \d+, popularity \d+; 0 minutes in all", table)
    assert "0.0% of the targets are cold" in table
    first, last = ReportResult.load(str(folder / "out")).systems
    assert first.paired is not None
    assert first.paired.p_adjusted <= 1
    assert last.paired is None  # the last is what others are held against
    assert first.num_users == NUM_USERS


def test_the_table_tells_how_its_reasoning_was_made(folder: Path) -> None:
    reasoning = folder / "reasoning"
    reasoning.mkdir()
    settings = ['teacher.model="a b"', "synthesis.tau=7"]
    (reasoning / "run.json").write_text(json.dumps({"changed": settings}))
    dataset = Dataset.load(str(folder / "dataset"))
    compare(["random"], Run(dataset, str(folder / "out"), RunConfig(), str(reasoning)), no_ray)
    table = (folder / "out" / "report" / "table.md").read_text()
    synthesize, again = (line for line in table.splitlines() if "REASONING" in line)
    assert synthesize.startswith("    msrrec synthesize --dataset DATASET --out REASONING ")
    assert synthesize.endswith("""'teacher.model="a b"' synthesis.tau=7""")
    assert again.startswith("    msrrec compare --dataset DATASET --out OUT --reasoning REASONING")


def test_a_failing_system_is_told_and_leaves_the_rest(folder: Path) -> None:
    summary = run(folder, "category,random,embedding-last")
    assert [row["system"] for row in summary["systems"]] == ["random"]
    assert set(summary["failures"]) == {"category", "embedding-last"}
    table = (folder / "out" / "report" / "table.md").read_text()
    page = (folder / "out" / "report" / "index.html").read_text()
    for text in (table, page):
        assert "no item has categories" in text
        assert "baselines.embedding_model is not set" in text


def test_where_all_fail_the_first_sentence_is_raised(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the first, category: .* no item has categories"):
        run(folder, "category")


def test_only_a_changed_system_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    evaluate = comparison.evaluate_baseline

    def count(dataset: Dataset, name: str, out: str, config: RunConfig) -> dict[str, Any]:
        ran.append(name)
        return evaluate(dataset, name, out, config)

    monkeypatch.setattr(comparison, "evaluate_baseline", count)
    first = run(folder, "random,popularity")
    assert run(folder, "random,popularity") == first
    run(folder, "popularity,random,bm25-last")
    assert ran == ["random", "popularity", "bm25-last"]
    # A setting that no system here uses changes nothing; the seed changes all.
    run(folder, "random", RunConfig.model_validate({"baselines": {"trials": 9}}))
    assert len(ran) == 3
    run(folder, "random", RunConfig.model_validate({"inference": {"seed": 1}}))
    assert ran[3:] == ["random"]
    changed = replace(comparison.BASELINES["popularity"], revision=2)
    monkeypatch.setitem(comparison.BASELINES, "popularity", changed)
    run(folder, "popularity")
    assert ran[4:] == ["popularity"]


def test_what_nobody_foresaw_ends_one_system_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = comparison.evaluate_baseline

    def fail(dataset: Dataset, name: str, out: str, config: RunConfig) -> dict[str, Any]:
        if name == "random":
            raise KeyError("what is this")
        return evaluate(dataset, name, out, config)

    monkeypatch.setattr(comparison, "evaluate_baseline", fail)
    summary = run(folder, "random,popularity")
    assert summary["failures"] == {"random": "'what is this'"}
    assert [row["system"] for row in summary["systems"]] == ["popularity"]


def test_the_table_names_no_folder_of_the_machine(folder: Path) -> None:
    summary = run(folder, "random,category")  # the dataset has no categories
    assert str(folder) in summary["failures"]["category"]
    table = (folder / "out" / "report" / "table.md").read_text()
    assert "| category | failed: DATASET: no item has categories" in table
    assert str(folder) not in table


def test_versions_are_those_of_the_runs_and_not_of_the_table(folder: Path) -> None:
    run(folder, "random,popularity")
    (record,) = (folder / "out" / "systems").glob("random-*/run.json")
    kept = json.loads(record.read_text())
    kept |= {"cores": 96, "versions": kept["versions"] | {"torch": "0.0-old"}}
    record.write_text(json.dumps(kept))
    run(folder, "random,popularity")
    table = (folder / "out" / "report" / "table.md").read_text()
    assert "torch 0.0-old and " in table
    assert f"with 96 and {os.cpu_count()} cores" in table


def test_other_weights_paths_and_budgets_are_other_systems(folder: Path) -> None:
    base, reasoning = folder / "base", folder / "reasoning"
    for path in (base, reasoning):
        path.mkdir()
    (base / "config.json").write_text("{}")
    names = ("tallrec-gen", "llara", "msrrec", "msrrec-without-reasoning", "backbone", "teacher")

    def keys(budget: int | None = None) -> dict[str, str]:
        settings = {"model": {"name_or_path": str(base)}, "synthesis": {"max_calls": budget}}
        config = RunConfig.model_validate(settings)
        dataset = Dataset.load(str(folder / "dataset"))
        shared = Run(dataset, str(folder / "out"), config, str(reasoning))
        found = find_systems(names, shared)
        return {
            n: json.dumps(asdict(s.identity), sort_keys=True)
            for n, s in zip(names, found, strict=True)
        }

    def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
        return {name for name in names if before[name] != after[name]}

    write_safetensors(base / "model.safetensors", ("old",))
    (reasoning / "paths.parquet").write_bytes(b"old")
    first = keys()
    assert keys() == first
    assert changed(first, keys(budget=5)) == {"teacher"}
    write_safetensors(base / "model.safetensors", ("new",))
    second = keys()
    assert changed(first, second) == set(names) - {"teacher"}
    (reasoning / "paths.parquet").write_bytes(b"new")
    # Who has a path decides how often a purchase is seen, also without reasoning.
    assert changed(second, keys()) == {"msrrec", "msrrec-without-reasoning"}


def test_what_was_trained_is_trained_again_only_when_that_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    evaluated = comparison.evaluate_baseline
    monkeypatch.setattr(
        "msrrec.training.loop.train", lambda dataset, reasoning, out, config: trained.append(out)
    )
    monkeypatch.setattr(
        comparison,
        "evaluate",
        lambda dataset, model, out, config, modes, **_: evaluated(dataset, "random", out, config),
    )
    monkeypatch.setattr("msrrec.stage.ray_session", lambda *_: contextlib.nullcontext())
    shared = Run(Dataset.load(str(folder / "dataset")), str(folder / "out"), RunConfig())
    for overwrite, times in ((False, 1), (False, 1), (True, 2)):
        compare(["msrrec-without-reasoning"], shared, contextlib.nullcontext, overwrite=overwrite)
        assert len(trained) == times


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Arm and learning rate of every training; models trained at 0.001 never name a candidate."""
    found: list[tuple[str, float]] = []

    def note(config: RunConfig) -> None:
        found.append((config.train.arm, config.train.learning_rate))

    fake_training(monkeypatch, note)
    return found


def compare_arms(folder: Path, names: str, **sections: Any) -> list[dict[str, Any]]:
    (folder / "reasoning").mkdir(exist_ok=True)
    (folder / "reasoning" / "paths.parquet").write_bytes(b"paths")
    config = RunConfig.model_validate(sections)
    dataset = Dataset.load(str(folder / "dataset"))
    shared = Run(dataset, str(folder / "out"), config, str(folder / "reasoning"))
    rows: list[dict[str, Any]] = compare(names.split(","), shared, contextlib.nullcontext)[
        "systems"
    ]
    return rows


def results_of(folder: Path) -> dict[str, EvaluationResult]:
    places = sorted((folder / "out" / "systems").iterdir())
    found = [EvaluationResult.load(str(place)) for place in places if place.is_dir()]
    return {result.system.id: result for result in found}


def test_every_arm_is_trained_once_and_read_as_it_answers(
    folder: Path, trained: list[tuple[str, float]]
) -> None:
    arms = "msrrec-without-reasoning,msrrec-placebo,msrrec-filler,msrrec-facts"
    rows = compare_arms(folder, f"{arms},msrrec-direct,msrrec")
    assert [arm for arm, _ in trained] == ["none", "placebo", "filler", "facts", "chain"]
    variants: dict[str, list[str]] = {}
    for row in rows:
        variants.setdefault(row["system"], []).append(row["variant"])
    both = ["user", "item", "full", "fused"]
    assert variants == {
        "MSR-Rec w/o reason": ["direct"],
        "MSR-Rec placebo": both,
        "MSR-Rec filler": both,
        "MSR-Rec facts": ["direct"],
        "MSR-Rec direct": ["direct"],
        "MSR-Rec": both,
    }
    found = results_of(folder)
    assert {name: result.system.paper_row for name, result in found.items()} == {
        "msrrec-without-reasoning": "MSR-Rec w/o reason",
        **dict.fromkeys(("msrrec-placebo", "msrrec-filler", "msrrec-facts", "msrrec-direct")),
        "msrrec": "MSR-Rec (8B)",
    }


def test_a_result_tells_how_many_tokens_were_supervised_and_generated(
    folder: Path, trained: list[tuple[str, float]]
) -> None:
    compare_arms(folder, "msrrec")
    result = results_of(folder)["msrrec"]
    assert result.model is not None
    assert result.model.arm == "chain"
    assert result.model.supervised_tokens == SupervisedTokens(reasoning=40, recommendation=9)
    generated = result.generated_tokens
    means = {side: figures.mean_tokens for side, figures in result.sides.items()}
    assert generated["user"] == means["user"] > 0
    assert generated["fused"] == means["user"] + means["item"]  # both sides are needed


def test_a_report_says_what_msrrec_and_its_controls_were_taught_and_write(
    folder: Path, trained: list[tuple[str, float]]
) -> None:
    compare_arms(folder, "msrrec-without-reasoning,msrrec")
    written = {name: result.generated_tokens for name, result in results_of(folder).items()}
    taught = "learned to write 40 of reasoning and 9 of recommendations, and writes"
    (sentence,) = (
        found
        for found in ReportResult.load(str(folder / "out")).findings
        if found.startswith("Tokens: ")
    )
    assert sentence == (
        f"Tokens: MSR-Rec w/o reason · direct {taught} "
        f"{written['msrrec-without-reasoning']['direct']:.0f} a user; MSR-Rec · fused {taught} "
        f"{written['msrrec']['fused']:.0f} a user."
    )


def test_every_arm_tries_the_same_rates_and_validation_picks_one(
    folder: Path, trained: list[tuple[str, float]]
) -> None:
    rates = {"arm_learning_rates": [0.001, 0.01]}
    compare_arms(folder, "msrrec-without-reasoning,msrrec", baselines=rates)
    assert trained == [("none", 0.001), ("none", 0.01), ("chain", 0.001), ("chain", 0.01)]
    for result in results_of(folder).values():
        bad, good = result.rate_trials
        assert (bad.learning_rate, bad.hit_ratio) == (0.001, 0.0)
        assert good.learning_rate == 0.01
        assert good.hit_ratio > 0
        assert result.split == "test"
        assert next(reversed(result.variants.values())).hit_ratio.value > 0


def test_rates_are_compared_again_under_other_settings_without_training_again(
    folder: Path, trained: list[tuple[str, float]]
) -> None:
    rates = {"arm_learning_rates": [0.001, 0.01]}
    for few in ({}, {"inference": {"temperature": 0.5}}, {}):
        compare_arms(folder, "msrrec-without-reasoning", baselines=rates, **few)
    compare_arms(folder, "msrrec-without-reasoning", baselines={**rates, "arm_validation_users": 2})
    assert trained == [("none", 0.001), ("none", 0.01)]
    assert len(list((folder / "out" / "systems").iterdir())) == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [("best", "'best' is unknown"), ("random,random", "found 'random' twice"), ("", "unknown")],
)
def test_names_that_say_nothing_are_refused(folder: Path, names: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(folder, names)
    assert not (folder / "out").exists()


def test_text_from_shops_stays_text_in_the_table(folder: Path) -> None:
    run(folder, "random")
    table = (folder / "out" / "report" / "table.md").read_text()
    assert NASTY not in table
    assert table.startswith("# Systems on Home &lt;script&gt;")


def test_a_models_folder_and_the_backbone_are_systems_in_the_modes_they_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "predict", predict_here)
    plain, model = folder / "plain", folder / "model"
    for path, has_reasoning in ((plain, False), (model, True)):
        (path / "merged").mkdir(parents=True)
        (path / "merged" / "config.json").write_text("{}")
        write_safetensors(path / "merged" / "model.safetensors", ("a",))
        settings = {"kind": "msrrec", "answer_format": "number_title", "domain": "Home"}
        settings["train"] = {"reasoning": has_reasoning}  # type: ignore[assignment]
        (path / "config.json").write_text(json.dumps(settings))
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    write_safetensors(base / "model.safetensors", ("a",))
    names = ["backbone", f"Plain={plain}", f"Ours={model}"]
    config = RunConfig.model_validate({"model": {"name_or_path": str(base)}})
    shared = Run(Dataset.load(str(folder / "dataset")), str(folder / "out"), config)
    rows = compare(names, shared, contextlib.nullcontext)["systems"]
    assert [(row["system"], row["variant"]) for row in rows] == [
        ("backbone zero-shot", "full"),
        ("Plain", "direct"),
        *[("Ours", mode) for mode in ("user", "item", "full", "fused")],
    ]
    assert rows[-1]["paired"] is None  # the fused row is what others are held against
    assert rows[2]["hit_ratio"]["value"] == 1.0


def test_a_system_that_writes_may_name_no_candidate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def fit(self, dataset: Dataset, folder: str) -> dict[str, Any]:
            return {"steps": 3}

        def write(self, examples: Sequence[Example]) -> list[WrittenChoice]:
            targets = [e.candidates.index(e.target) for e in examples]
            return [
                WrittenChoice("", None, 0),
                *(WrittenChoice("Right", n, 2) for n in targets[1:]),
            ]

    monkeypatch.setattr(evaluation, "build_baseline", lambda *_: Absent())
    shared = Run(Dataset.load(str(folder / "dataset")), str(folder / "out"), RunConfig())
    (row,) = compare(["tallrec-gen"], shared, contextlib.nullcontext)["systems"]
    assert row["label"] == "tallrec-gen"
    assert row["valid_ratio"]["value"] == row["hit_ratio"]["value"] == 11 / NUM_USERS


def test_a_tuned_system_runs_again_for_its_own_settings_alone(folder: Path) -> None:
    dataset = Dataset.load(str(folder / "dataset"))

    def settings(name: str, **sections: Any) -> Any:
        shared = Run(dataset, str(folder / "out"), RunConfig.model_validate(sections))
        (system,) = find_systems([name], shared)
        return system.identity.settings

    for name, section in (("tallrec-gen", "tallrec"), ("llara", "llara")):
        found = settings(name)
        assert settings(name, train={"learning_rate": 0.5}) == found  # the section's own counts
        assert settings(name, **{section: {"learning_rate": 0.5}}) != found
        assert settings(name, train={"max_seq_len": 99}) != found
        assert settings(name, model={"dtype": "float32"}) != found


def test_msrrec_trained_on_the_spot_needs_reasoning(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs --reasoning"):
        run(folder, "msrrec")
