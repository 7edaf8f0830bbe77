"""What ``synthesize`` writes can be audited: nothing of the future, and every origin is named."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leakage import later_items
from msrrec.embedded.world import make_world
from msrrec.schema import SPLITS
from msrrec.synthesis.journal import JournalEntry, hash_prompt
from msrrec.synthesis.requests import build_requests
from msrrec.synthesis.synthesize import synthesize
from msrrec.titles import fold_text, normalize_title

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

NUM_USERS = 60
REPEATED = 7
"""Users whose test item is the last of their training history."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Leave-one-out on the embedded world; some users buy an item again."""
    folder = tmp_path_factory.mktemp("dataset")
    interactions, items = make_world(NUM_USERS, 0)
    bought: dict[str, list[str]] = defaultdict(list)
    for row in interactions.to_pylist():
        bought[row[schema.USER_ID]].append(row[schema.ITEM_ID])
    rng, ids = random.Random(0), items[schema.ITEM_ID].to_pylist()
    for split, back in zip(SPLITS, (3, 2, 1), strict=True):
        rows = [
            example(user, split, events, back, rng, ids, is_repeated=n < REPEATED)
            for n, (user, events) in enumerate(bought.items())
        ]
        table = pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
        storage.write_table(str(folder / f"{split}.parquet"), table)
    storage.write_table(str(folder / "items.parquet"), items)
    manifest = {"schema_version": 1, "domain": "Shop", "fingerprint": "f"}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return Dataset.load(str(folder))


def example(
    user: str,
    split: str,
    events: list[str],
    back: int,
    rng: random.Random,
    ids: list[str],
    *,
    is_repeated: bool,
) -> dict[str, Any]:
    events = [*events[:-1], events[-4]] if is_repeated else events
    target = events[-back]
    candidates = [*rng.sample([i for i in ids if i not in events], 5), target]
    return {
        "example_id": f"{user}-{split}",
        "user_id": user,
        "history": events[:-back],
        "target": target,
        "candidates": candidates,
    }


def test_no_prompt_or_path_holds_what_its_user_bought_later(
    dataset: Dataset, tmp_path: Path
) -> None:
    summary = synthesize(dataset, str(tmp_path), RunConfig())
    later = {user: dataset.titles(items) for user, items in later_items(dataset).items()}
    user_of = {e.example_id: e.user_id for e in dataset.examples("train")}
    questions = build_requests(dataset, RunConfig())
    assert summary["left_out"] == NUM_USERS - len(questions)
    assert summary["left_out"] >= REPEATED
    for question in questions.values():
        shown = {normalize_title(t) for t in (*question.history, *question.candidates)}
        held_out = {normalize_title(t) for t in later[user_of[question.example_id]]}
        assert len(held_out) in (1, 2)
        assert not shown & held_out
    paths = storage.read_table(str(tmp_path / "paths.parquet"), schema.PATHS).to_pylist()
    assert len(paths) == summary["kept"] > 0
    for path in paths:
        for title in later[user_of[path["example_id"]]]:
            assert normalize_title(title) not in fold_text(path["reasoning"])


def test_each_path_names_the_line_of_the_journal_that_it_came_from(
    dataset: Dataset, tmp_path: Path
) -> None:
    synthesize(dataset, str(tmp_path), RunConfig())
    questions = build_requests(dataset, RunConfig())
    paths = storage.read_table(str(tmp_path / "paths.parquet"), schema.PATHS).to_pylist()
    for path in paths:
        file, line = path["journal"].rsplit(":", 1)
        lines = (tmp_path / "journal" / file).read_bytes().split(b"\n")
        record = JournalEntry.from_line(lines[int(line) - 1])
        assert record is not None
        assert record.example_id == path["example_id"]
        assert record.attempt == path["attempt"]
        assert record.prompt_hash == path["prompt_hash"]
        assert path["prompt_hash"] == hash_prompt(questions[path["example_id"]].prompt)
        assert record.answered_at_s == path["answered_at_s"]
        assert path["model"] == path["served_model"] == "offline-teacher"


def test_the_card_agrees_with_the_summary(dataset: Dataset, tmp_path: Path) -> None:
    summary = synthesize(dataset, str(tmp_path), RunConfig())
    card = json.loads((tmp_path / "card.json").read_text())
    counts = {row["verdict"]: row["answers"] for row in card["verdicts"]}
    assert counts.pop("kept") == summary["valid"] == card["kept"]["kept"]
    assert counts == summary["pruned"]
    assert card["progress"][-1] == [summary["calls"], summary["valid"]]
    assert "share kept by category" in (tmp_path / "card.html").read_text().lower()
