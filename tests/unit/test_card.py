"""The data card adds up, and shows hostile text as text."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.synthesis.card import CARD, PAGE, write_card
from msrrec.synthesis.journal import JournalEntry, Sampling
from msrrec.synthesis.requests import TeacherRequest
from msrrec.synthesis.verdicts import JudgedEntry
from tests.support.synthesis import judged

NASTY = "<script>alert('x')</script> & <b>"
STEPS = ("one two three", "one two", "one", "one", "one two three four")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four users who bought h and then, the first two a and the others b, of two categories."""
    items = [
        {"item_id": "h", "title": "Old", "categories": ["All", "Tea"]},
        {"item_id": "a", "title": f"A {NASTY}", "categories": ["All", "Tea"]},
        {"item_id": "b", "title": "B", "categories": ["All", f"Pots {NASTY}"]},
    ]
    rows = [
        {
            "example_id": f"e{n}",
            "user_id": f"u{n}",
            "history": ["h"] * (n + 1),
            "target": "a" if n < 2 else "b",
            "candidates": ["a", "b"],
        }
        for n in range(4)
    ]
    folder = str(tmp_path / "dataset")
    storage.write_table(f"{folder}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    table = pa.Table.from_pylist(rows, schema=schema.EXAMPLES)
    storage.write_table(f"{folder}/train.parquet", table)
    manifest = {"schema_version": 1, "domain": f"Home {NASTY}", "fingerprint": "f00"}
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset.load(folder)


VERDICTS = [("e0", "kept", ""), ("e1", "malformed", "code"), ("e2", "inconsistent", NASTY)]


def make_entries(journal: Path) -> list[JudgedEntry]:
    """Three answers, journaled in the other order of their arrival."""
    journal.mkdir(parents=True)
    entries = []
    with (journal / "1.jsonl").open("wb") as file:
        for n, (example_id, verdict, detail) in enumerate(VERDICTS):
            sampling = Sampling("m", 0.6, 100)
            text = f"Text {n} {NASTY}"
            record = JournalEntry(
                example_id, 0, "h", sampling, text, None, "stop", {}, "m", 0.1, 1, 10.0 - n
            )
            file.write(record.to_line())
            entries.append(
                judged(
                    line=n,
                    example_id=example_id,
                    verdict=verdict,
                    detail=detail,
                    steps=STEPS if verdict == "kept" else (),
                    prompt_tokens=100,
                    completion_tokens=10 * n,
                    answered_at_s=10.0 - n,
                )
            )
    return entries


def make_card(dataset: Dataset, folder: Path, entries: list[JudgedEntry]) -> tuple[Any, str]:
    requests = {
        e.example_id: TeacherRequest(
            e.example_id,
            "prompt",
            "h",
            tuple(dataset.titles(e.candidates)),
            e.candidates.index(e.target),
            tuple(dataset.titles(e.history)),
        )
        for e in dataset.examples("train")
    }
    pruned = {"malformed": 1, "inconsistent": 1}
    summary = {"model": "m", "cost": None, "retries": 2, "left_out": 3, "pruned": pruned}
    journal = str(folder / "journal")
    examples = dataset.examples("train")
    write_card(str(folder), dataset, examples, requests, entries, journal, summary)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card, (folder / PAGE).read_text(encoding="utf-8")


def test_the_figures_of_the_card_add_up(dataset: Dataset, tmp_path: Path) -> None:
    card, _ = make_card(dataset, tmp_path, make_entries(tmp_path / "journal"))
    assert (card["num_answers"], card["kept"]["examples"], card["kept"]["kept"]) == (3, 3, 1)
    assert card["kept"]["share"]["value"] == pytest.approx(1 / 3)
    by_category = {r["label"]: (r["kept"], r["examples"]) for r in card["kept_by"]["category"]}
    assert by_category == {"Tea": (1, 2), f"Pots {NASTY}": (0, 1)}
    # each target was bought by two users, all four of them counted
    assert [(r["label"], r["examples"]) for r in card["kept_by"]["popularity"]] == [("2–3", 3)]
    lengths = [(r["label"], r["examples"]) for r in card["kept_by"]["history length"]]
    assert lengths == [("1", 1), ("2–3", 2)]  # histories of 1, 2 and 3
    assert [r["verdict"] for r in card["verdicts"]] == ["kept", "inconsistent", "malformed"]
    assert card["tokens"]["per_kept_path"] == 330  # 3 prompts of 100, answers of 0, 10 and 20
    assert card["progress"] == [[0, 0], [1, 0], [2, 0], [3, 1]]  # the kept one came last


def test_two_kept_paths_tell_the_length_of_their_steps(dataset: Dataset, tmp_path: Path) -> None:
    entries = make_entries(tmp_path / "journal")
    entries[1] = replace(entries[1], verdict="kept", steps=("one",) * 5)
    card, _ = make_card(dataset, tmp_path, entries)
    assert [row["median"] for row in card["step_words"]] == [2.0, 1.5, 1.0, 1.0, 2.5]


def test_each_verdict_has_its_example_from_the_journal(dataset: Dataset, tmp_path: Path) -> None:
    card, _ = make_card(dataset, tmp_path, make_entries(tmp_path / "journal"))
    shown = [(case["verdict"], case["text"]) for case in card["examples"]]
    assert shown == [
        ("kept", f"Text 0 {NASTY}"),
        ("inconsistent", f"Text 2 {NASTY}"),
        ("malformed", f"Text 1 {NASTY}"),
    ]


class Tags(HTMLParser):
    """Every tag, and every address that the page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_escapes_hostile_text_and_loads_nothing(dataset: Dataset, tmp_path: Path) -> None:
    _, page = make_card(dataset, tmp_path, make_entries(tmp_path / "journal"))
    found = Tags(page)
    assert "script" not in found.tags
    assert found.loads == []
    assert "&lt;script&gt;" in page


def test_a_run_without_answers_or_kept_paths_has_a_card_too(
    dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "journal").mkdir()
    card, page = make_card(dataset, tmp_path, [])
    assert card["kept"] == {"examples": 0, "kept": 0, "share": None}
    assert "0 of 0 examples" in page
    entries = [e for e in make_entries(tmp_path / "two" / "journal") if e.verdict != "kept"]
    card, page = make_card(dataset, tmp_path / "two", entries)
    assert card["tokens"]["per_kept_path"] is None
    assert "0.0%" in page
