"""Bad input on the command line: exit code 2, one sentence, nothing written."""

import gzip
import json
from pathlib import Path

import pytest

from msrrec.cli import main

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

ITEMS = "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(12))
EVENTS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user + n) % 12},{100 + n}\n" for user in range(8) for n in range(5)
)
PREPARE = ["data.k_core=1", "data.num_users=0"]


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr("sys.argv", ["msrrec", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def write(folder: Path, events: str = EVENTS, items: str = ITEMS) -> list[str]:
    """Input files, and the options that name them."""
    (folder / "events.csv").write_text(events)
    (folder / "items.csv").write_text(items)
    names = ["--interactions", str(folder / "events.csv"), "--items", str(folder / "items.csv")]
    return ["prepare", "--source", "table", *names, "--out", str(folder / "out")]


def test_good_input_gives_one_json_line_and_a_finished_stage_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = write(tmp_path)
    code, out, _ = run(monkeypatch, capsys, *command, *PREPARE)
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    assert (summary["num_users"], summary["num_items"], summary["num_interactions"]) == (8, 12, 40)
    code, again, err = run(monkeypatch, capsys, *command, *PREPARE)
    assert code == 0
    assert json.loads(again.splitlines()[-1]) == summary
    code, _, err = run(monkeypatch, capsys, *command, *PREPARE, "data.seed=1")
    assert code == 2
    assert "data.seed was 0, now 1" in err


@pytest.mark.parametrize(
    ("events", "items", "settings", "words"),
    [
        ("user_id,timestamp\nu,1\n", ITEMS, [], ["events.csv", "item_id"]),
        (EVENTS.replace(",101", ",soon"), ITEMS, [], ["events.csv", "soon", "timestamp"]),
        ("", ITEMS, [], ["events.csv", "empty"]),
        ("user_id,item_id,timestamp\n", ITEMS, [], ["events.csv"]),
        (EVENTS + "u0,mystery,1\n", ITEMS, [], ["mystery"]),
        (EVENTS + "lonely,i1,1\n", ITEMS, [], ["lonely", "min_user_events"]),
        (EVENTS, ITEMS, ["data.num_negatives=20"], ["num_negatives"]),
        (EVENTS, ITEMS.replace("Title 3", " "), [], ["i3"]),
        (EVENTS, ITEMS, ["data.k_core=50"], ["k_core"]),
    ],
    ids=[
        "missing column",
        "unparsable timestamp",
        "empty file",
        "header alone",
        "unknown item",
        "user with too few events",
        "too few items for candidates",
        "blank title",
        "nothing left after the k-core",
    ],
)
def test_bad_purchases_are_one_sentence_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: str,
    items: str,
    settings: list[str],
    words: list[str],
) -> None:
    code, out, err = run(monkeypatch, capsys, *write(tmp_path, events, items), *PREPARE, *settings)
    assert code == 2, err
    assert out == ""
    sentence = err.split("msrrec: ")[-1].strip()
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.csv", "items.csv"]


def test_a_truncated_gzip_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = write(tmp_path)
    whole = gzip.compress(EVENTS.encode() * 50)
    (tmp_path / "events.csv.gz").write_bytes(whole[: len(whole) // 2])
    command[4] += ".gz"
    code, _, err = run(monkeypatch, capsys, *command, *PREPARE)
    assert code == 2
    assert "events.csv.gz" in err.split("msrrec: ")[-1]
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_does_not_answer_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, *write(tmp_path), *PREPARE)[0] == 0
    code, _, err = run(
        *(monkeypatch, capsys, "synthesize", "--dataset", str(tmp_path / "out")),
        *("--out", str(tmp_path / "reasoning"), "teacher.base_url=http://127.0.0.1:9/v1"),
        "teacher.max_retries=0",
    )
    assert code == 2
    sentence = err.split("msrrec: ")[-1].strip()
    assert "http://127.0.0.1:9/v1" in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "reasoning" / "paths.parquet").exists()


@pytest.mark.parametrize("command", ["evaluate", "recommend", "serve"])
def test_a_folder_that_is_no_model_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    options = {
        "evaluate": ["--dataset", str(tmp_path / "out"), "--out", str(tmp_path / "eval")],
        "recommend": ["--history", "a", "--candidate", "b", "--candidate", "c"],
        "serve": [],
    }
    if command == "evaluate":
        assert run(monkeypatch, capsys, *write(tmp_path), *PREPARE)[0] == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = run(monkeypatch, capsys, command, "--model", str(empty), *options[command])
    assert code == 2
    assert "holds no config.json" in err.split("msrrec: ")[-1]
    assert not (tmp_path / "eval").exists()


def test_training_without_reasoning_data_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(
        *(monkeypatch, capsys, "train", "--dataset", str(tmp_path), "--out", str(tmp_path / "m")),
    )
    assert code == 2
    assert "train.reasoning=false" in err


def test_a_dry_run_prints_the_settings_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, *write(tmp_path), "data.k_core=7", "--dry-run")
    assert code == 0
    assert json.loads(out)["data"]["k_core"] == 7
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_synthesize_estimates_what_it_would_take_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, *write(tmp_path), *PREPARE)[0] == 0
    code, out, _ = run(
        *(monkeypatch, capsys, "synthesize", "--dataset", str(tmp_path / "out")),
        *("--out", str(tmp_path / "reasoning"), "teacher.base_url=http://127.0.0.1:9/v1"),
        *("teacher.prompt_price=0.5", "teacher.completion_price=2", "--dry-run"),
    )
    assert code == 0
    found = json.loads(out)
    estimate = found["estimate"]
    tokens = (estimate["prompt_tokens"], estimate["completion_tokens"])
    assert estimate["cost"] == pytest.approx((tokens[0] * 0.5 + tokens[1] * 2) / 1e6, abs=1e-4)
    assert estimate["calls"] > 0
    assert found["teacher"]["base_url"] == "http://127.0.0.1:9/v1"
    assert not (tmp_path / "reasoning").exists()
