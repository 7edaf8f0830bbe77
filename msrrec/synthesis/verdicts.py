"""Judges every completion in the journal: a large journal with Ray Data, else in this process.

Judging costs no call, so every run judges the whole journal again, and a changed pruning rule
applies to old completions too.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from msrrec import storage
from msrrec.chat.completions import estimate_tokens
from msrrec.config import RunConfig
from msrrec.data.readers import file_size
from msrrec.reasoning.choice import Rule
from msrrec.synthesis.journal import (
    JournalEntry,
    Sampling,
    iter_entries,
    list_journal_files,
    sampling_of,
)
from msrrec.synthesis.plan import CallId, CompletionStatus, Spending
from msrrec.synthesis.pruning import Judgement, Verdict
from msrrec.synthesis.requests import Requests, TeacherRequest
from msrrec.synthesis.teachers import count_tokens

logger = logging.getLogger(__name__)

Samplings = frozenset[Sampling]

_SHARED = ("verdict", "status", "rule", "model", "served_model", "teacher", "run", "finish_reason")
"""Fields that have few different values."""

SMALL_BYTES = 16 << 20
"""Size of a journal that is judged in this process: as long as Ray Data takes to start."""


@dataclass(frozen=True)
class JudgedEntry:
    """A journal entry with its place, verdict and cost.

    Attributes:
        file: 0-based index of its file in the journal.
        line: 0-based line of that file.
        journal: File name and 1-based line, for messages.
        verdict: None if the prompt, model or sampling is not the one requested now.
        status: What it means for the plan; None if the verdict is None.
        detail: Further detail of the verdict.
        steps: The five steps, if they could be read.
        rule: The rule by which step 5 names a candidate, if it does.
        estimated_prompt_tokens: Estimated from the prompt's length; 0 if the verdict is None.
        cost: Cost in the currency of the prices; None if no price is known.
    """

    file: int
    line: int
    journal: str
    verdict: Verdict | None
    status: CompletionStatus | None
    detail: str
    steps: tuple[str, ...]
    rule: Rule | None
    estimated_prompt_tokens: int
    example_id: str
    attempt: int
    model: str
    served_model: str
    teacher: str | None
    prompt_hash: str
    answered_at_s: float
    run: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    latency_s: float
    finish_reason: str
    tries: int

    @property
    def call_id(self) -> CallId:
        """The call that led to it."""
        return self.example_id, self.attempt

    @property
    def spending(self) -> Spending:
        """One call, its tokens and its cost; cost 0 if no price is known."""
        return Spending(1, self.prompt_tokens + self.completion_tokens, self.cost or 0.0)


def status_of(judgement: Judgement) -> CompletionStatus:
    """Whether a completion gives a path, is unreadable, or is final without a path."""
    if judgement.verdict == "kept":
        return "valid"
    return "unreadable" if judgement.is_retryable else "settled"


def spending_of(entry: JournalEntry) -> Spending:
    """What a journaled completion cost."""
    return Spending(1, count_tokens(entry.usage), entry.cost or 0.0)


def samplings_of(config: RunConfig) -> Samplings:
    """How the teachers of a run sample; completions sampled otherwise are ignored."""
    return frozenset(map(sampling_of, config.teacher.endpoints))


def judge_journal(journal: str, requests: Requests, samplings: Samplings) -> list[JudgedEntry]:
    """Every completion in the journal; those that are requested now are judged.

    Completions of other prompts, models or samplings stay in the journal and are only counted.
    """
    files = list_journal_files(journal)
    if sum(map(file_size, files)) <= SMALL_BYTES:
        return list(judge_journal_here(journal, requests, samplings))
    import ray

    asked = ray.put((requests, samplings))

    def judge_file(row: dict[str, str | int]) -> Iterator[dict[str, object]]:
        judged = _judge_file(int(row["file"]), str(row["path"]), *ray.get(asked))
        yield from map(asdict, judged)

    dataset = ray.data.from_items(
        [{"file": n, "path": path} for n, path in enumerate(files)],
        override_num_blocks=len(files),
    )
    return [_restore(row) for row in dataset.flat_map(judge_file).iter_rows()]


def _restore(row: dict[str, Any]) -> JudgedEntry:
    """An entry from its fields; texts that most entries share are held once."""
    shared = {name: sys.intern(row[name]) for name in _SHARED if row[name] is not None}
    return JudgedEntry(**{**row, **shared, "steps": tuple(row["steps"])})


def judge_journal_here(
    journal: str, requests: Requests, samplings: Samplings
) -> Iterator[JudgedEntry]:
    """The same as ``judge_journal``, always in this process."""
    for n, path in enumerate(list_journal_files(journal)):
        yield from _judge_file(n, path, requests, samplings)


def _judge_file(
    file: int, path: str, requests: Requests, samplings: Samplings
) -> Iterator[JudgedEntry]:
    for line, entry in enumerate(iter_entries(path)):
        if entry is None:
            logger.warning("%s: skipped a damaged line", path)
            continue
        request = requests.get(entry.example_id)
        is_known = request is not None and request.is_answered_by(entry)
        is_asked = is_known and entry.sampling in samplings
        yield _judge_entry(file, line, path, entry, request if is_asked else None)


def _judge_entry(
    file: int, line: int, path: str, entry: JournalEntry, request: TeacherRequest | None
) -> JudgedEntry:
    """An entry with its verdict; without a verdict if no request is given."""
    judgement = request.judge(entry) if request else None
    return JudgedEntry(
        file=file,
        line=line,
        journal=f"{storage.base_name(path)}:{line + 1}",
        verdict=judgement.verdict if judgement else None,
        status=status_of(judgement) if judgement else None,
        detail=judgement.detail if judgement else "",
        steps=judgement.steps if judgement else (),
        rule=judgement.rule if judgement else None,
        estimated_prompt_tokens=estimate_tokens(request.prompt) if request else 0,
        example_id=entry.example_id,
        attempt=entry.attempt,
        model=entry.sampling.model,
        served_model=entry.served_model,
        teacher=entry.teacher or None,
        prompt_hash=entry.prompt_hash,
        answered_at_s=entry.answered_at_s,
        run=entry.run,
        prompt_tokens=int(entry.usage.get("prompt_tokens", 0)),
        completion_tokens=int(entry.usage.get("completion_tokens", 0)),
        cost=float(entry.cost) if entry.cost is not None else None,
        latency_s=entry.latency_s,
        finish_reason=entry.finish_reason,
        tries=entry.tries,
    )


def sort_entries(
    requests: Requests, found: Iterable[JudgedEntry]
) -> tuple[list[JudgedEntry], Spending]:
    """The requested completions in the order of the examples, and the cost of all completions.

    The first completion of a call counts.
    """
    first: dict[CallId, JudgedEntry] = {}
    spent = Spending()
    for entry in sorted(found, key=lambda entry: (entry.file, entry.line)):
        spent += entry.spending
        if entry.verdict is not None:
            first.setdefault(entry.call_id, entry)
    answered = {entry.example_id for entry in first.values()}
    order = {name: n for n, name in enumerate(requests) if name in answered}
    entries = sorted(first.values(), key=lambda entry: (order[entry.example_id], entry.attempt))
    return entries, spent
