"""The command line: what each command prints, and how whatever goes wrong ends."""

import contextlib
import errno
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from msrrec import __version__, storage
from msrrec.baselines import BASELINES
from msrrec.cli import app
from msrrec.config import InferenceConfig, PromptConfig
from msrrec.evaluation import evaluate as evaluation
from msrrec.inference.recommender import Recommender
from msrrec.metrics.text import meteor
from tests.support.cli import Commands, Ended
from tests.support.engine import FakeEngine, recommender
from tests.support.evaluation import write_evaluated_users
from tests.support.score import REFERENCE, write_references, write_scored


def test_the_version_is_the_packages(msrrec: Commands) -> None:
    ended = msrrec("--version")
    assert (ended.code, ended.out) == (0, f"msrrec {__version__}\n")


@pytest.mark.parametrize(("typed", "whole"), [("eva", "evaluate"), ("syn", "synthesize")])
def test_a_shell_completes_commands(typed: str, whole: str) -> None:
    code = "import sys; sys.argv = ['msrrec']; from msrrec.cli import main; main()"
    asked = {
        "_MSRREC_COMPLETE": "complete_bash",
        "COMP_WORDS": f"msrrec {typed}",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, [whole]), done.stderr


def test_serve_is_imported_with_what_decides_how_its_processes_call_each_other(
    tmp_path: Path,
) -> None:
    code = """
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "ray.serve":
            print("over gRPC:", os.environ.get("RAY_SERVE_USE_GRPC_BY_DEFAULT"))
sys.meta_path.insert(0, Watch())
from msrrec.cli import main
main()
"""
    command = [sys.executable, "-c", code, "serve", "--model", str(tmp_path / "none")]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_SERVE_")}
    done = subprocess.run(command, env=plain, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "over gRPC: 1\n")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["evalute"], "evaluate"),
        (["sweep", "--overwrit"], "--overwrite"),
        (["evaluate", "--modl", "m"], "--model"),
    ],
)
def test_a_misspelt_command_or_option_is_refused_and_its_like_named(
    msrrec: Commands, arguments: list[str], near: str
) -> None:
    ended = msrrec(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert near in ended.err


def test_no_command_at_all_shows_the_help(msrrec: Commands) -> None:
    ended = msrrec()
    shown = ended.out + ended.err
    for command in ("prepare", "synthesize", "train", "evaluate", "serve"):
        assert command in shown


@pytest.mark.parametrize("verbose", [False, True])
def test_logs_of_other_libraries_are_shown_where_that_is_asked_for(
    tmp_path: Path, msrrec: Commands, monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    msrrec(*(["--verbose"] if verbose else []), "report", str(tmp_path))
    assert os.environ.get("VLLM_LOGGING_LEVEL") == (None if verbose else "ERROR")


def dry_run(msrrec: Commands, *arguments: str) -> Ended:
    return msrrec("evaluate", "--dataset", "d", "--out", "o", "--dry-run", *arguments)


def test_settings_that_a_command_does_not_use_are_named_and_others_are_not(
    msrrec: Commands,
) -> None:
    ended = dry_run(msrrec, "--model", "m", "inference.seed=4", "sweep.alphas=[0.5]")
    assert ended.code == 0
    assert "evaluate does not use sweep.alphas=[0.5]; ignored" in ended.err
    assert ended.summary["inference"]["seed"] == 4


def test_settings_of_a_section_that_a_command_does_not_read_are_named_too(
    msrrec: Commands,
) -> None:
    ended = dry_run(msrrec, "--model", "m", "evaluate.gptscore_model=m", "evaluate.split=test")
    assert "evaluate does not use evaluate.gptscore_model=m; ignored" in ended.err
    arguments = ("--dataset", "d", "--references", "r", "--dry-run", "evaluate.num_users=5")
    ended = msrrec("score", "e", *arguments, "judge.votes=1", "evaluate.gptscore_model=m")
    assert "score does not use evaluate.num_users=5; ignored" in ended.err
    assert "evaluate.split" not in ended.err  # among the settings that it would run with


def test_the_help_lists_what_a_command_reads_and_nothing_else() -> None:
    group = typer.main.get_command(app)

    def listed(name: str) -> set[str]:
        command = group.commands[name]  # type: ignore[attr-defined]
        return set(re.findall(r"\[cyan\](\S+)\[/cyan\]", command.epilog))

    scored = {f"evaluate.{key}" for key in ("bertscore_model", "bertscore_layers")}
    scored |= {"evaluate.gptscore_model"}
    judge = {name for name in listed("score") if name.startswith("judge.")}
    assert listed("score") == scored | judge
    assert "judge.votes" in judge
    evaluated = listed("evaluate")
    fitted = {f"baselines.{name}" for entry in BASELINES.values() for name in entry.settings}
    assert fitted | {"evaluate.gate", "tallrec.num_epochs", "train.alpha"} <= evaluated
    elsewhere = {
        "evaluate.recsaver_samples",
        "evaluate.paraphraser",
        "baselines.arm_learning_rates",
    }
    assert not (elsewhere | scored) & evaluated
    faithfulness = listed("faithfulness")
    assert {"evaluate.interventions", "evaluate.paraphraser", "teacher.model"} <= faithfulness
    assert "evaluate.split" not in faithfulness
    assert "evaluate.gate" not in listed("export-lm-eval")


@pytest.mark.parametrize(
    ("option", "value"), [("--name", "Ours"), ("--variant", "user"), ("--variant", "user,item")]
)
def test_a_baseline_has_neither_name_nor_variants(
    tmp_path: Path, msrrec: Commands, option: str, value: str
) -> None:
    write_evaluated_users(tmp_path / "dataset")
    ended = evaluate_popularity(tmp_path, msrrec, option, value)
    assert ended.code == 2
    assert (
        ended.sentence
        == f"{option}: popularity is a baseline, which does not take this option; leave it out"
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these evaluations need no Ray for is done without one."""
    monkeypatch.setattr("msrrec.stage.ray_session", lambda *_: contextlib.nullcontext())


def evaluate_popularity(folder: Path, msrrec: Commands, *options: str) -> Ended:
    return msrrec(
        *("evaluate", "--dataset", str(folder / "dataset"), "--model", "popularity"),
        *("--out", str(folder / "out"), *options),
    )


@pytest.mark.usefixtures("without_ray")
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, msrrec: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluated_users(tmp_path / "dataset")

    def fail(path: str, data: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(storage, "write_json", fail)
    ended = evaluate_popularity(tmp_path, msrrec)
    assert ended.code == 2
    assert str(tmp_path / "out") in ended.sentence
    assert ended.sentence.endswith(
        "No space left on device; free space there and run the same command again"
    )
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("without_ray")
def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, msrrec: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluated_users(tmp_path / "dataset")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_baseline", interrupt)
    ended = evaluate_popularity(tmp_path, msrrec)
    assert (ended.code, ended.out) == (130, "")
    assert ended.sentence == "interrupted; run the same command again to continue"


@pytest.mark.usefixtures("without_ray")
def test_a_report_is_made_of_what_lies_below_a_folder(tmp_path: Path, msrrec: Commands) -> None:
    write_evaluated_users(tmp_path / "dataset")
    assert evaluate_popularity(tmp_path, msrrec).code == 0
    ended = msrrec("report", str(tmp_path / "out"))
    assert ended.code == 0
    (row,) = ended.summary["systems"]
    assert (row["system"], row["hit_ratio"]["value"]) == ("popularity", 1.0)
    assert "popularity" in Path(ended.summary["page"]).read_text().lower()


def test_a_folder_without_evaluations_has_no_report(tmp_path: Path, msrrec: Commands) -> None:
    ended = msrrec("report", str(tmp_path))
    assert (ended.code, ended.out) == (2, "")
    assert str(tmp_path) in ended.sentence


def test_a_failing_system_is_shown_and_makes_the_exit_code_1(
    tmp_path: Path, msrrec: Commands
) -> None:
    write_evaluated_users(tmp_path / "dataset")  # its items have no categories
    ended = msrrec(
        *("compare", "--dataset", str(tmp_path / "dataset"), "--out", str(tmp_path / "out")),
        *("--systems", "random,category,popularity"),
    )
    assert ended.code == 1
    assert [row["system"] for row in ended.summary["systems"]] == ["random", "popularity"]
    assert list(ended.summary["failures"]) == ["category"]
    table = (tmp_path / "out" / "report" / "table.md").read_text()
    assert "| category | failed: DATASET: no item has categories" in table
    assert "| popularity | 1.0000" in table


def test_the_reasoning_of_an_evaluation_is_scored_against_references(
    tmp_path: Path, msrrec: Commands
) -> None:
    dataset, folder = write_scored(tmp_path)
    references = write_references(tmp_path / "paths", {"e0": "a", "e1": "a"})
    ended = msrrec("score", folder, "--dataset", dataset.path, "--references", references)
    assert ended.code == 0, ended.err
    assert (ended.summary["num_references"], ended.summary["num_users"]) == (2, 4)
    own = meteor([(REFERENCE, REFERENCE)]).values[0]  # user 1 has no word of it: half in the mean
    scored = ended.summary["variants"]["user"]["meteor"]
    assert scored["all"]["value"] == pytest.approx(own / 2)
    assert scored["correct"]["value"] == pytest.approx(own)
    again = msrrec("score", folder, "--dataset", dataset.path, "--references", references)
    assert (again.code, again.summary) == (0, ended.summary)
    assert "is finished; skipped" in again.err


USER, ITEM = "side of the user", "side of the items"
"""Words of the prompts of the two sides."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the model writes to prompts with some words; a fake engine stands for vLLM."""
    texts: dict[str, str] = {}

    def write(prompt: str, seed: int) -> str:
        return next(text for words, text in texts.items() if words in prompt)

    def build(model: str, config: InferenceConfig, form: PromptConfig) -> Recommender:
        return recommender(FakeEngine(write), config)

    monkeypatch.setattr(Recommender, "from_pretrained", build)
    return texts


def ask(msrrec: Commands, *options: str) -> Ended:
    titles = [part for title in ("Lens", "Rope", "Kettle") for part in ("--candidate", title)]
    return msrrec("recommend", "--model", "m", "--history", "Camera", *titles, *options)


def test_a_recommendation_shows_what_each_side_wrote_and_the_chosen_ones_ranking(
    msrrec: Commands, written: dict[str, str]
) -> None:
    written[USER] = "It fits the camera.\n[reasoning_end]\n(1) Lens"
    written[ITEM] = "No idea."
    ended = ask(msrrec, "inference.candidate_logprobs=true")
    assert ended.code == 0
    found = ended.summary
    assert (found["item"], found["index"], found["side"]) == ("Lens", 0, "user")
    assert (found["agreement"], found["reasoning"]) == ("one_valid", "It fits the camera.")
    assert found["perplexity"] == pytest.approx(math.exp(0.5))  # all tokens' log-probability: -1/2
    assert found["sides"]["user"] == {
        "item": "Lens",
        "reasoning": "It fits the camera.",
        "perplexity": found["perplexity"],
    }
    assert found["sides"]["item"]["item"] is None
    assert found["sides"]["item"]["text"] == "[reasoning_start]\nNo idea."
    # The choice is first; each number that may follow is twice as likely as the one before.
    assert [row["item"] for row in found["ranking"]] == ["Lens", "Kettle", "Rope"]
    assert [row["index"] for row in found["ranking"]] == [0, 2, 1]
    assert [row["score"] for row in found["ranking"]] == pytest.approx([1 / 7, 4 / 7, 2 / 7])


def test_without_probabilities_there_is_no_ranking(
    msrrec: Commands, written: dict[str, str]
) -> None:
    written[USER] = "Ropes.\n[reasoning_end]\n(2) Rope"
    ended = ask(msrrec, "--mode", "user")
    assert (ended.summary["item"], ended.summary["ranking"]) == ("Rope", None)
    assert list(ended.summary["sides"]) == ["user"]


def test_an_output_that_names_no_candidate_recommends_nothing_and_says_so(
    msrrec: Commands, written: dict[str, str]
) -> None:
    written[""] = "Something else altogether"
    ended = ask(msrrec)
    assert ended.code == 0
    assert [ended.summary[key] for key in ("item", "index", "reasoning", "ranking")] == [None] * 4
    assert ended.summary["sides"]["item"]["text"].endswith("Something else altogether")
    assert "recommend: no output names exactly one of the candidates" in ended.err


@pytest.mark.parametrize(("mode", "near"), [("fusd", "fused"), ("users", "user")])
def test_a_misspelt_mode_is_refused_and_its_like_named(
    msrrec: Commands, mode: str, near: str
) -> None:
    ended = ask(msrrec, "--mode", mode)
    assert ended.code == 2
    assert f"did you mean {near}?" in ended.sentence


def test_a_baseline_mistyped_is_told_at_once_and_a_hubs_name_is_not(msrrec: Commands) -> None:
    options = ["--dataset", "none", "--out", "none", "--dry-run"]
    assert msrrec("evaluate", "--model", "embedded", *options).code == 0
    wrong = msrrec("evaluate", "--model", "populrity", *options[:-1])
    assert wrong.code == 2
    assert "did you mean popularity?" in wrong.err
