"""Bad input on the command line: exit code 2, one sentence, nothing written."""

import gzip
from pathlib import Path

import pytest

from tests.support.cli import Commands

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

ITEMS = "item_id,title\n" + "".join(f"i{n},Title {n}\n" for n in range(12))
EVENTS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user + n) % 12},{100 + n}\n" for user in range(8) for n in range(5)
)
PREPARE = ["data.k_core=1", "data.num_users=0"]


def write(folder: Path, events: str = EVENTS, items: str = ITEMS) -> list[str]:
    """Input files, and the options that name them."""
    (folder / "events.csv").write_text(events)
    (folder / "items.csv").write_text(items)
    names = ["--interactions", str(folder / "events.csv"), "--items", str(folder / "items.csv")]
    return ["prepare", "--source", "table", *names, "--out", str(folder / "out")]


def test_good_input_gives_one_json_line_and_a_finished_stage_is_skipped(
    tmp_path: Path, msrrec: Commands
) -> None:
    command = write(tmp_path)
    ended = msrrec(*command, *PREPARE)
    assert ended.code == 0
    summary = ended.summary
    assert (summary["num_users"], summary["num_items"], summary["num_interactions"]) == (8, 12, 40)
    again = msrrec(*command, *PREPARE)
    assert (again.code, again.summary) == (0, summary)
    other = msrrec(*command, *PREPARE, "data.seed=1")
    assert other.code == 2
    assert "data.seed was 0, now 1" in other.sentence


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
    msrrec: Commands,
    events: str,
    items: str,
    settings: list[str],
    words: list[str],
) -> None:
    ended = msrrec(*write(tmp_path, events, items), *PREPARE, *settings)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert "\n" not in ended.sentence
    assert all(word in ended.sentence for word in words), ended.sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.csv", "items.csv"]


def test_a_truncated_gzip_is_one_sentence(tmp_path: Path, msrrec: Commands) -> None:
    command = write(tmp_path)
    whole = gzip.compress(EVENTS.encode() * 50)
    (tmp_path / "events.csv.gz").write_bytes(whole[: len(whole) // 2])
    command[4] += ".gz"
    ended = msrrec(*command, *PREPARE)
    assert ended.code == 2
    assert "events.csv.gz" in ended.sentence
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_does_not_answer_is_one_sentence(tmp_path: Path, msrrec: Commands) -> None:
    assert msrrec(*write(tmp_path), *PREPARE).code == 0
    ended = msrrec(
        *("synthesize", "--dataset", str(tmp_path / "out"), "--out", str(tmp_path / "reasoning")),
        *("teacher.base_url=http://127.0.0.1:9/v1", "teacher.max_retries=0"),
    )
    assert ended.code == 2
    assert "http://127.0.0.1:9/v1" in ended.sentence
    assert "\n" not in ended.sentence
    assert not (tmp_path / "reasoning" / "paths.parquet").exists()


@pytest.mark.parametrize("command", ["evaluate", "recommend", "serve"])
def test_a_folder_that_is_no_model_is_one_sentence(
    tmp_path: Path,
    msrrec: Commands,
    command: str,
) -> None:
    options = {
        "evaluate": ["--dataset", str(tmp_path / "out"), "--out", str(tmp_path / "eval")],
        "recommend": ["--history", "a", "--candidate", "b", "--candidate", "c"],
        "serve": [],
    }
    if command == "evaluate":
        assert msrrec(*write(tmp_path), *PREPARE).code == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = msrrec(command, "--model", str(empty), *options[command])
    assert ended.code == 2
    assert "holds no config.json" in ended.sentence
    assert not (tmp_path / "eval").exists()


def test_training_without_reasoning_data_says_what_to_do(tmp_path: Path, msrrec: Commands) -> None:
    ended = msrrec("train", "--dataset", str(tmp_path), "--out", str(tmp_path / "m"))
    assert ended.code == 2
    assert "train.arm=none" in ended.sentence


def test_a_dry_run_prints_the_settings_and_writes_nothing(tmp_path: Path, msrrec: Commands) -> None:
    ended = msrrec(*write(tmp_path), "data.k_core=7", "--dry-run")
    assert ended.code == 0
    assert ended.summary["data"]["k_core"] == 7
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_synthesize_estimates_what_it_would_take_and_asks_nobody(
    tmp_path: Path, msrrec: Commands
) -> None:
    assert msrrec(*write(tmp_path), *PREPARE).code == 0
    ended = msrrec(
        *("synthesize", "--dataset", str(tmp_path / "out"), "--out", str(tmp_path / "reasoning")),
        *("teacher.base_url=http://127.0.0.1:9/v1", "teacher.prompt_price=0.5"),
        *("teacher.completion_price=2", "--dry-run"),
    )
    assert ended.code == 0
    found = ended.summary
    estimate = found["estimate"]
    tokens = (estimate["prompt_tokens"], estimate["completion_tokens"])
    assert estimate["cost"] == pytest.approx((tokens[0] * 0.5 + tokens[1] * 2) / 1e6, abs=1e-4)
    assert estimate["calls"] > 0
    assert found["teacher"]["base_url"] == "http://127.0.0.1:9/v1"
    assert not (tmp_path / "reasoning").exists()
