"""What runs of the benchmark with a pretrained model answered, kept over killed and later calls."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.real_asking import Asked
from bench.real_pool import Store
from bench.real_specs import Answers, Spec
from msrrec.evaluation.hits import HITS, group_hits, read_hits
from msrrec.schema import Example
from tests.support.hits import rows_of

FIRST = Spec("w", "none", "history_first", seed=0, rate=0.001)
SECOND = replace(FIRST, seed=1)


def answers(spec: Spec, letters: str) -> Answers:
    """Those of a run, a letter a user as in ``rows_of``."""
    rows = rows_of(spec.kind, {spec.seed: letters}, dataset=spec.dataset, order=spec.order)
    side: dict[str, Any] = {"run": spec.name, "side": "direct", "candidate_logprobs": [-0.5, -1.0]}
    outputs = [{**side, "example_id": row["example_id"]} for row in rows]
    return Answers(rows, outputs, {"tokens": 7})


def keep(folder: Path, *runs: tuple[Spec, str]) -> None:
    """One call that finishes these runs."""
    store = Store(folder)
    for spec, letters in runs:
        store.add(spec, answers(spec, letters))
    store.write()


def hits_by_seed(folder: Path) -> list[list[int]]:
    """The hits of each seed, which is what tables are made of."""
    (found,) = group_hits(read_hits([str(folder / "hits.parquet")])).values()
    return [[int(hit) for hit in seed] for seed in found.hits.T]


def num_outputs(folder: Path) -> dict[str, int]:
    """How many outputs each run has."""
    names = pq.read_table(folder / "outputs.parquet")["run"].to_pylist()
    return {name: names.count(name) for name in names}


def test_a_call_that_is_killed_before_it_lists_a_run_does_not_double_its_rows(
    tmp_path: Path,
) -> None:
    keep(tmp_path, (FIRST, "hmh"), (SECOND, "mmm"))
    listed = tmp_path / "runs.jsonl"
    lines = listed.read_text(encoding="utf-8").splitlines(keepends=True)
    listed.write_text(lines[0], encoding="utf-8")  # as if killed between the files
    assert list(Store(tmp_path).runs) == [FIRST.name]
    keep(tmp_path, (SECOND, "hhm"))
    assert hits_by_seed(tmp_path) == [[1, 0, 1], [1, 1, 0]]
    assert num_outputs(tmp_path) == {FIRST.name: 3, SECOND.name: 3}
    names = [json.loads(line)["name"] for line in listed.read_text("utf-8").splitlines()]
    assert names == [FIRST.name, SECOND.name]


@pytest.mark.parametrize("other", [{"rate": 0.003}, {"epochs": 2}])
def test_a_run_with_other_settings_takes_the_place_of_the_one_in_its_cell(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    keep(tmp_path, (FIRST, "hmh"), (SECOND, "mmm"))
    again = replace(FIRST, **other)
    assert again.name != FIRST.name
    keep(tmp_path, (again, "hhm"))
    assert hits_by_seed(tmp_path) == [[1, 1, 0], [0, 0, 0]]
    assert num_outputs(tmp_path) == {FIRST.name: 3, SECOND.name: 3, again.name: 3}


@pytest.mark.parametrize(
    "other", [{"arm": "facts"}, {"order": "candidates_first"}, {"plain": True}]
)
def test_rows_of_another_cell_stay(tmp_path: Path, other: dict[str, Any]) -> None:
    keep(tmp_path, (FIRST, "hmh"), (replace(FIRST, **other), "hhm"))
    found = group_hits(read_hits([str(tmp_path / "hits.parquet")]))
    assert [len(cell.users) for cell in found.values()] == [3, 3]


def test_the_file_of_hits_has_the_types_of_a_studys_also_where_an_older_one_had_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "hits.parquet"
    keep(tmp_path, (FIRST, "hmi"))
    assert pq.read_schema(file).remove_metadata() == HITS
    kinds = {"seed": pa.int32(), "index": pa.int32()}
    older = pa.schema([(f.name, kinds.get(f.name, f.type)) for f in HITS])
    pq.write_table(pq.read_table(file).cast(older), file)
    keep(tmp_path, (SECOND, "mmm"))
    assert pq.read_schema(file).remove_metadata() == HITS
    assert hits_by_seed(tmp_path) == [[1, 0, 0], [0, 0, 0]]


def test_the_rows_of_a_run_are_those_of_a_study() -> None:
    examples = [Example(f"e{n}", f"u{n}", ("a",), "b", ("a", "b")) for n in range(3)]
    users: Any = SimpleNamespace(
        tokenizer=None, form=None, examples=examples, queries=[], choices=[]
    )
    nothing: Any = None
    spec = replace(FIRST, seed=4, plain=True)
    asked = Asked(spec, nothing, users, nothing, (), 0)
    rows = asked.rows({"direct": [1, 0, None], "fused": [1, 1, 1]})
    assert [(row["reading"], row["index"], row["hit"]) for row in rows] == [
        *(("direct", 1, True), ("direct", 0, False), ("direct", None, False)),
        *[("fused", 1, True)] * 3,
    ]
    assert rows[1] == {
        **{"dataset": "w", "arm": "none+plain", "order": "history_first", "seed": 4},
        **{"reading": "direct", "example_id": "e1", "user_id": "u1", "index": 0, "hit": False},
    }
