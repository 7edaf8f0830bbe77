"""Answers are on the disk before anything else, and a torn line costs only itself."""

import asyncio
import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec import storage
from msrrec.config import EndpointConfig
from msrrec.data.dataset import Dataset
from msrrec.synthesis.journal import (
    JournalEntry,
    JournalWriter,
    Sampling,
    claim_journal,
    hash_prompt,
    iter_entries,
    list_journal_files,
    sampling_of,
)

RECORD = JournalEntry(
    example_id="e1",
    attempt=0,
    prompt_hash="00ff",
    sampling=Sampling("teacher", 0.6, 100),
    text="Step 1.\nLine \u2028 and 漢字",
    reasoning_content=None,
    finish_reason="stop",
    usage={"prompt_tokens": 3, "completion_tokens": 4},
    served_model="teacher-2",
    latency_s=0.5,
    tries=2,
    answered_at_s=1.0,
)


@given(st.text(), st.none() | st.text(), st.integers(0, 9))
def test_a_record_is_read_back_from_its_one_line(
    text: str, thought: str | None, attempt: int
) -> None:
    record = replace(RECORD, text=text, reasoning_content=thought, attempt=attempt)
    line = record.to_line()
    assert line.count(b"\n") == 1
    assert JournalEntry.from_line(line.rstrip(b"\n")) == record


def test_parameters_that_were_left_out_or_added_are_another_sampling() -> None:
    plain = EndpointConfig(model="teacher", max_tokens=100)
    assert sampling_of(plain) == RECORD.sampling
    renamed = plain.model_copy(update={"rename": {"max_tokens": "max_completion_tokens"}})
    assert sampling_of(renamed) == RECORD.sampling
    varied = plain.model_copy(update={"omit": ("temperature",), "extra_body": {"effort": "low"}})
    sampling = Sampling(
        "teacher", 0.6, 100, '{"extra_body": {"effort": "low"}, "omit": ["temperature"]}'
    )
    assert sampling_of(varied) == sampling
    line = replace(RECORD, sampling=sampling).to_line()
    assert JournalEntry.from_line(line) == replace(RECORD, sampling=sampling)
    older = json.loads(RECORD.to_line())
    del older["variation"]
    assert JournalEntry.from_line(json.dumps(older).encode()) == RECORD


@given(st.integers(0, 400))
def test_a_torn_or_foreign_line_is_no_record(length: int) -> None:
    line = RECORD.to_line().rstrip(b"\n")
    assert JournalEntry.from_line(line[: min(length, len(line) - 1)]) is None
    assert JournalEntry.from_line(b'{"example_id": "e1"}') is None
    assert JournalEntry.from_line(b"[]") is None


def test_every_appended_answer_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path))
    seen: list[int] = []

    async def append(n: int) -> None:
        await writer.append(replace(RECORD, attempt=n))
        found = [r.attempt for r in iter_entries(list_journal_files(str(tmp_path))[0]) if r]
        assert n in found
        seen.append(n)

    async def main() -> None:
        await asyncio.gather(*map(append, range(50)))

    asyncio.run(main())
    assert sorted(seen) == list(range(50))
    (path,) = list_journal_files(str(tmp_path))
    assert sorted(r.attempt for r in iter_entries(path) if r) == list(range(50))


def test_answers_that_arrive_together_share_one_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (syncs.append(fd), real(fd))[1])
    writer = JournalWriter(str(tmp_path))

    async def main() -> None:
        await asyncio.gather(*(writer.append(RECORD) for _ in range(50)))

    asyncio.run(main())
    # the first answer goes alone, with its file and its folder; the other 49 together
    assert len(syncs) <= 4


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(RECORD.to_line() * 2 + RECORD.to_line()[:40])
    assert list(iter_entries(str(path))) == [RECORD, RECORD, None]


def test_two_writers_have_two_files(tmp_path: Path) -> None:
    async def main() -> None:
        await JournalWriter(str(tmp_path)).append(RECORD)
        await JournalWriter(str(tmp_path)).append(RECORD)

    asyncio.run(main())
    assert len(list_journal_files(str(tmp_path))) == 2


def test_a_full_disk_is_an_error_and_not_a_lost_answer(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        asyncio.run(writer.append(RECORD))


def test_a_journal_of_another_dataset_is_kept_and_marked_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Dataset("data/toys", {"fingerprint": "abc", "domain": "Toys"}, {})
    folder = claim_journal(str(tmp_path), mine)
    (Path(folder) / "paid.jsonl").write_text("{}\n")
    assert claim_journal(str(tmp_path), mine) == folder
    claim_journal(str(tmp_path), Dataset("data/b", {"fingerprint": "xyz", "domain": "B"}, {}))
    assert (Path(folder) / "paid.jsonl").exists()
    assert storage.read_json(f"{folder}/dataset.json")["path"] == "data/b"


def test_the_prompt_hash_changes_with_any_character() -> None:
    assert len({hash_prompt(text) for text in ("a", "a ", "A", "b")}) == 4


def test_a_disk_that_fills_up_leaves_whole_lines_and_a_later_one_is_whole_too(
    tmp_path: Path,
) -> None:
    line = len(RECORD.to_line())
    writer = JournalWriter(str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    asyncio.run(writer.append(RECORD))
    resource.setrlimit(resource.RLIMIT_FSIZE, (line + line // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            asyncio.run(writer.append(RECORD))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (path,) = list_journal_files(str(tmp_path))
    assert os.path.getsize(path) == line
    asyncio.run(writer.append(RECORD))
    assert list(iter_entries(path)) == [RECORD, RECORD]


def test_a_record_without_the_fields_that_have_defaults_is_read() -> None:
    row = json.loads(RECORD.to_line())
    for name in ("teacher", "cost", "run"):
        del row[name]
    assert JournalEntry.from_line(json.dumps(row).encode()) == RECORD
