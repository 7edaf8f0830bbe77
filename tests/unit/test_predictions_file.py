import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import storage
from msrrec.comparison.compare import compare
from msrrec.comparison.registry import Run
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, DataError
from msrrec.evaluation.results import EvaluationResult
from tests.support.evaluation import NASTY, NUM_USERS, write_evaluated_users

Rows = list[dict[str, Any]]
IDS = [f"e{n:02d}" for n in range(NUM_USERS)]
RIGHT = f"Right {NASTY}"


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    raise AssertionError("a file needs no Ray")
    yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_evaluated_users(tmp_path / "dataset")
    return tmp_path


def run(folder: Path, file: Path, config: RunConfig | None = None) -> dict[str, Any]:
    dataset = Dataset.load(str(folder / "dataset"))
    shared = Run(dataset, str(folder / "out"), config or RunConfig())
    return compare(["random", f"Theirs={file}"], shared, no_ray)


def result_of(folder: Path) -> EvaluationResult:
    (found,) = (folder / "out" / "systems").glob("theirs-*")
    return EvaluationResult.load(str(found))


def write_parquet(folder: Path, rows: Rows) -> Path:
    file = folder / "theirs.parquet"
    storage.write_table(str(file), pa.Table.from_pylist(rows))
    return file


def write_lines(folder: Path, rows: Rows) -> Path:
    file = folder / "theirs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_chosen_items_of_a_parquet_file_are_a_row_that_says_so(folder: Path) -> None:
    rows = [{"example_id": e, "item_id": "right" if n < 9 else "bad"} for n, e in enumerate(IDS)]
    summary = run(folder, write_parquet(folder, rows))
    assert [row["system"] for row in summary["systems"]] == ["random", "Theirs (file)"]
    table = (folder / "out" / "report" / "table.md").read_text()
    assert "| Theirs (file) | 0.7500 [" in table
    assert "--systems 'random,Theirs=FILE'" in table or "--systems random,Theirs=FILE" in table
    assert str(folder) not in table
    result = result_of(folder)
    assert result.variants["file"].num_hits == 9
    assert result.variants["file"].lenient is None  # there is no text to read in another way
    assert "choices are read by item_id from theirs.parquet (12 rows)" in [
        check.text for check in result.audit
    ]


def test_scores_choose_and_rank_the_candidates_in_their_frozen_order(folder: Path) -> None:
    # The target is at slot n modulo 3; a list that rises to the last slot hits every third user.
    rows = [{"example_id": e, "scores": [0.1, 0.2, 0.3]} for e in IDS]
    run(folder, write_lines(folder, rows))
    found = result_of(folder).variants["file"]
    assert found.num_hits == 4
    assert found.ranking is not None
    assert found.ranking.mrr.value == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)


def test_texts_are_read_strictly_leniently_and_with_a_stated_fallback(folder: Path) -> None:
    texts = [RIGHT] * 6 + [f"I would take {RIGHT} now"] * 3 + ["No idea"] * 3
    rows = [{"example_id": e, "text": text} for e, text in zip(IDS, texts, strict=True)]
    run(folder, write_lines(folder, rows))
    found = result_of(folder).variants["file"]
    assert found.num_hits == 6
    assert found.lenient is not None
    assert found.lenient.num_hits == 9
    assert found.hit_ratio_fallback.value == pytest.approx((6 + 6 / 3) / 12)  # one in three
    table = (folder / "out" / "report" / "table.md").read_text()
    assert "a random candidate in place of an invalid answer, as expected" in table


def test_a_csv_file_keeps_ids_as_text_and_takes_scores_as_json(folder: Path) -> None:
    file = folder / "theirs.csv"
    lines = [f'{e},"[0.0, 0.0, 1.0]"' for e in IDS]
    file.write_text("\n".join(["example_id,candidate_scores", *lines]) + "\n")
    run(folder, file)
    assert result_of(folder).variants["file"].num_hits == 4


def test_whatever_does_not_fit_is_told_in_a_sentence_and_counts(folder: Path) -> None:
    rows: Rows = [{"example_id": e, "item_id": "right"} for e in IDS[2:]]
    rows[0]["item_id"] = "h"  # an item that is no candidate
    rows += [{"example_id": "e05", "item_id": "bad"}, {"example_id": "u9", "item_id": "right"}]
    rows[1]["scores"] = [1.0]
    summary = run(folder, write_lines(folder, rows))
    result = result_of(folder)
    assert result.variants["file"].num_hits == 9  # two without a row, one without a candidate
    assert result.variants["file"].num_valid == 9
    failed = [check.text for check in result.audit if not check.ok]
    for sentence in (
        "has a row for every evaluated example, else it is a miss: not so for e00, e01",
        "holds ids of the test split alone, others are left out: not so for u9",
        "has one row per example, else the first counts: not so for e05",
        "chooses candidates of the example, else it is a miss: not so for h for e02",
        "one finite score per candidate, else the example is not ranked: not so for e03",
    ):
        assert any(text.endswith(sentence) for text in failed)
        assert any(sentence in warning for warning in summary["warnings"])
    facts = result.file
    assert facts is not None
    assert (facts.num_rows, facts.num_missing, facts.num_unknown) == (12, 2, 1)
    assert (facts.num_repeated, facts.num_foreign, facts.num_misshapen) == (1, 1, 1)


def test_a_file_is_read_again_only_where_its_content_changed(folder: Path) -> None:
    rows: Rows = [{"example_id": e, "item_id": "right"} for e in IDS]
    run(folder, write_lines(folder, rows))
    (folder / "theirs.jsonl").rename(folder / "moved.jsonl")
    run(folder, folder / "moved.jsonl")
    assert len(list((folder / "out" / "systems").glob("theirs-*"))) == 1
    rows[0]["item_id"] = "bad"
    run(folder, write_lines(folder, rows))
    assert len(list((folder / "out" / "systems").glob("theirs-*"))) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"item_id": "right"}', "found item_id; expected a column example_id and one of item_id"),
        ('{"example_id": "e00"}', "found example_id; expected a column example_id and one of"),
        ("", "found no rows; expected"),
        ("[1]", "other lines than JSON objects"),
        ("{", "can't be read"),
        ("[" * 9_999, "can't be read"),
        ('{"example_id": null, "item_id": "a"}', "row 1 has no example_id"),
    ],
)
def test_a_file_that_says_nothing_is_refused_before_any_work(
    folder: Path, content: str, sentence: str
) -> None:
    (folder / "theirs.jsonl").write_text(content)
    with pytest.raises(DataError, match=sentence):
        run(folder, folder / "theirs.jsonl")
    assert not (folder / "out").exists()


def test_ids_that_were_written_as_bytes_are_texts(folder: Path) -> None:
    rows = [{"example_id": e.encode(), "item_id": b"right"} for e in IDS]
    run(folder, write_parquet(folder, rows))
    assert result_of(folder).variants["file"].num_hits == NUM_USERS
    with pytest.raises(DataError, match=r"can't be read .*utf8"):
        run(folder, write_parquet(folder, [{**rows[0], "item_id": b"\xff"}]))


def test_lines_end_at_new_lines_alone_and_may_begin_with_a_mark(folder: Path) -> None:
    rows = [{"example_id": e, "text": f"{RIGHT}\n\u2028\x85so"} for e in IDS]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "theirs.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    run(folder, folder / "theirs.jsonl")
    assert result_of(folder).variants["file"].num_hits == NUM_USERS


@pytest.mark.parametrize("score", ["1" + "0" * 400, "1e400", "NaN", "[" * 9_999])
def test_scores_that_no_number_holds_are_told(folder: Path, score: str) -> None:
    lines = [f'{e},"[{score}, 0, 0]"' for e in IDS]
    file = folder / "theirs.csv"
    file.write_text("\n".join(["example_id,scores", *lines]))
    run(folder, file)
    facts = result_of(folder).file
    assert facts is not None
    assert facts.num_misshapen == NUM_USERS


def test_a_file_of_other_examples_or_candidates_is_a_failed_system(folder: Path) -> None:
    file = write_lines(folder, [{"example_id": "7", "item_id": "right"}])
    summary = run(folder, file)
    assert (
        "none of its example_ids, such as '7', is an evaluated one, such as 'e00'"
        in (summary["failures"]["Theirs"])
    )
    file = write_lines(folder, [{"example_id": "e00", "item_id": "right"}])
    permuted = RunConfig.model_validate({"evaluate": {"permutation": 1}})
    assert "expected 0 and frozen" in run(folder, file, permuted)["failures"]["Theirs"]


def test_a_missing_file_is_one_sentence(folder: Path) -> None:
    with pytest.raises((ConfigError, DataError), match="can't be read"):
        run(folder, folder / "nowhere.parquet")
