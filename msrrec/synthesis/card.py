"""The data card: what was asked and kept, why the rest was not kept, and the cost.

A path is kept only if the teacher found the target, so easy users are over-represented. The shares
of kept examples by category, popularity and history length show by how much.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import mean, quantiles
from typing import TypedDict

from msrrec import storage
from msrrec.data.dataset import Dataset
from msrrec.metrics.statistics import wilson
from msrrec.page import render_page, svg_points
from msrrec.reasoning.prompts import STEPS
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.synthesis.journal import JournalEntry, iter_entries, list_journal_files
from msrrec.synthesis.requests import Requests, TeacherRequest
from msrrec.synthesis.verdicts import JudgedEntry
from msrrec.titles import clean_title

CARD = "card.json"
PAGE = "card.html"

_MAX_CATEGORIES = 12
_MAX_POINTS = 200
_EXAMPLES_EACH = 2
_TEXT_CHARS = 2000


class Share(TypedDict):
    """How many examples have a kept path; ``share`` with interval, None without examples."""

    examples: int
    kept: int
    share: dict[str, float] | None


class LabelledShare(Share):
    """The share of the examples with one label, such as one category."""

    label: str


class VerdictCount(TypedDict):
    """How often one verdict came, and its most common details."""

    verdict: str
    answers: int
    share: float
    details: dict[str, int]


class StepWords(TypedDict):
    """The length of a step of the kept paths in words: first decile, median, last decile."""

    step: str
    p10: float
    median: float
    p90: float


class Tokens(TypedDict):
    """Tokens in total, per completion, and per kept path (all tokens paid for counted)."""

    prompt: int
    completion: int
    completion_mean: float
    per_kept_path: float | None


class ExampleAnswer(TypedDict):
    """A completion in full, with its request."""

    verdict: str
    detail: str
    example_id: str
    attempt: int
    model: str
    finish_reason: str
    history: list[str]
    candidates: list[str]
    target: int
    text: str


class Card(TypedDict):
    """The contents of ``card.json``."""

    kind: str
    dataset: dict[str, str]
    summary: Summary
    num_answers: int
    num_asked_again: int
    kept: Share
    kept_by: dict[str, list[LabelledShare]]
    verdicts: list[VerdictCount]
    step_words: list[StepWords]
    tokens: Tokens
    progress: list[list[int]]
    examples: list[ExampleAnswer]


def write_card(
    out: str,
    dataset: Dataset,
    examples: Sequence[Example],
    requests: Requests,
    entries: Sequence[JudgedEntry],
    journal: str,
    summary: Summary,
) -> None:
    """Write ``card.json`` and ``card.html``.

    Args:
        out: Output folder of the stage.
        dataset: For titles, categories and popularity.
        examples: Examples of the split; those without a completion are left out.
        requests: Requests by example id.
        entries: The judged completions.
        journal: Folder of the journal.
        summary: The figures of ``summary.json``.
    """
    asked = {entry.example_id for entry in entries}
    examples = [example for example in examples if example.example_id in asked]
    card = build_card(dataset, examples, requests, entries, journal, summary)
    storage.write_json(storage.join(out, CARD), card)
    page = render_page("synthesis/card.html", card=card, plot=_plot(card["progress"]))
    storage.write_bytes(storage.join(out, PAGE), page)


def build_card(
    dataset: Dataset,
    examples: Sequence[Example],
    requests: Requests,
    entries: Sequence[JudgedEntry],
    journal: str,
    summary: Summary,
) -> Card:
    """The figures of the card; arguments as for ``write_card``, examples with a completion only."""
    kept = {entry.example_id for entry in entries if entry.verdict == "kept"}
    return {
        "kind": "msrrec data card",
        "dataset": {
            "path": dataset.path,
            "domain": dataset.domain,
            "fingerprint": dataset.fingerprint,
        },
        "summary": dict(summary),
        "num_answers": len(entries),
        "num_asked_again": sum(entry.attempt > 0 for entry in entries),
        "kept": _share([e.example_id in kept for e in examples]),
        "kept_by": _slices(dataset, examples, kept),
        "verdicts": _count_verdicts(entries),
        "step_words": _step_words(entries),
        "tokens": _tokens(entries, len(kept)),
        "progress": _progress(entries),
        "examples": _pick_examples(requests, entries, journal),
    }


def _share(hits: Sequence[bool]) -> Share:
    share = wilson(sum(hits), len(hits))
    return {"examples": len(hits), "kept": sum(hits), "share": asdict(share) if share else None}


def _slices(
    dataset: Dataset, examples: Sequence[Example], kept: set[str]
) -> dict[str, list[LabelledShare]]:
    """Shares of kept examples by target category, target popularity and history length."""
    users_of: dict[str, set[str]] = defaultdict(set)
    targets = {example.target for example in examples}
    for example in dataset.iter_examples("train"):
        for item_id in targets.intersection((*example.history, example.target)):
            users_of[item_id].add(example.user_id)
    category = _category_of(dataset, examples)
    slices = {
        "popularity": _slice(examples, kept, lambda e: _doubling_bin(len(users_of[e.target]))),
        "history length": _slice(examples, kept, lambda e: _doubling_bin(len(e.history))),
    }
    if not category:
        return slices
    sizes = Counter(category.values())
    common = {label for label, _ in sizes.most_common(_MAX_CATEGORIES)}
    by_size = sorted(common, key=lambda label: (-sizes[label], label))
    order = {label: n for n, label in enumerate(by_size)}

    def place(example: Example) -> tuple[int, str]:
        label = category[example.example_id]
        return (order[label], label) if label in order else (len(order), "all others")

    return {"category": _slice(examples, kept, place), **slices}


def _slice(
    examples: Sequence[Example], kept: set[str], place: Callable[[Example], tuple[int, str]]
) -> list[LabelledShare]:
    """Shares of kept examples by label, in the order of the labels."""
    hits: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for example in examples:
        hits[place(example)].append(example.example_id in kept)
    return [{"label": key[1], **_share(hits[key])} for key in sorted(hits)]


def _doubling_bin(count: int) -> tuple[int, str]:
    """The bin of a count: 1, 2–3, 4–7, 8–15 and so on."""
    low = 1 << max(count.bit_length() - 1, 0)
    return (low, "1") if low == 1 else (low, f"{low}–{2 * low - 1}")


def _category_of(dataset: Dataset, examples: Sequence[Example]) -> dict[str, str]:
    """Each target's category at the widest level that differs; empty if there are none."""
    paths = {e.example_id: dataset.items[e.target].categories for e in examples}
    for level in range(max(map(len, paths.values()), default=0)):
        labels = {
            example_id: clean_title(path[min(level, len(path) - 1)]) if path else "none"
            for example_id, path in paths.items()
        }
        if len(set(labels.values())) > 1:
            return labels
    return {}


def _count_verdicts(entries: Sequence[JudgedEntry]) -> list[VerdictCount]:
    """Count of each verdict, ``kept`` first, with its most common details."""
    counts = Counter(str(entry.verdict) for entry in entries)
    details: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if entry.detail:
            details[str(entry.verdict)][entry.detail] += 1
    order = sorted(counts, key=lambda verdict: (verdict != "kept", -counts[verdict], verdict))
    return [
        {
            "verdict": verdict,
            "answers": counts[verdict],
            "share": counts[verdict] / len(entries),
            "details": dict(details[verdict].most_common(6)),
        }
        for verdict in order
    ]


def _step_words(entries: Sequence[JudgedEntry]) -> list[StepWords]:
    """The length of each step of the kept paths in words: first decile, median, last decile."""
    kept = [entry.steps for entry in entries if entry.verdict == "kept"]
    if len(kept) < 2:
        return []
    columns = zip(STEPS["full"], zip(*kept, strict=True), strict=True)
    tenths = [(name, quantiles((len(s.split()) for s in steps), n=10)) for name, steps in columns]
    return [
        {"step": name, "p10": cuts[0], "median": cuts[4], "p90": cuts[8]} for name, cuts in tenths
    ]


def _tokens(entries: Sequence[JudgedEntry], num_kept: int) -> Tokens:
    prompt = sum(entry.prompt_tokens for entry in entries)
    completions = [entry.completion_tokens for entry in entries]
    return {
        "prompt": prompt,
        "completion": sum(completions),
        "completion_mean": mean(completions) if completions else 0,
        "per_kept_path": (prompt + sum(completions)) / num_kept if num_kept else None,
    }


def _progress(entries: Sequence[JudgedEntry]) -> list[list[int]]:
    """Number of valid paths after a number of completions, in order of arrival."""
    valid: set[str] = set()
    curve = [[0, 0]]
    for n, entry in enumerate(sorted(entries, key=lambda entry: entry.answered_at_s), 1):
        if entry.verdict == "kept":
            valid.add(entry.example_id)
        curve.append([n, len(valid)])
    stride = max(1, -(-len(curve) // _MAX_POINTS))
    return curve[::stride] + ([curve[-1]] if (len(curve) - 1) % stride else [])


def _plot(progress: Sequence[Sequence[int]]) -> dict[str, str | int]:
    """The curve as points of an SVG of 600 by 200, and its end values."""
    calls, valid = progress[-1]
    points = [(600 * x / max(calls, 1), 200 - 190 * y / max(calls, 1)) for x, y in progress]
    return {"points": svg_points(points), "calls": calls, "valid": valid}


def _pick_examples(
    requests: Requests, entries: Sequence[JudgedEntry], journal: str
) -> list[ExampleAnswer]:
    """The first completions with each verdict, so that the choice is not hand-picked."""
    picked: dict[str, list[JudgedEntry]] = defaultdict(list)
    for entry in entries:
        if len(picked[str(entry.verdict)]) < _EXAMPLES_EACH:
            picked[str(entry.verdict)].append(entry)
    chosen = [entry for count in _count_verdicts(entries) for entry in picked[count["verdict"]]]
    texts = _read_entries(journal, {(entry.file, entry.line) for entry in chosen})
    return [
        _example(requests[entry.example_id], entry, texts[entry.file, entry.line])
        for entry in chosen
    ]


def _read_entries(
    journal: str, places: set[tuple[int, int]]
) -> dict[tuple[int, int], JournalEntry]:
    """The journal entries at some lines of some files."""
    found: dict[tuple[int, int], JournalEntry] = {}
    files = list_journal_files(journal)
    for file in sorted({file for file, _ in places}):
        for line, entry in enumerate(iter_entries(files[file])):
            if entry is not None and (file, line) in places:
                found[file, line] = entry
    return found


def _example(request: TeacherRequest, judged: JudgedEntry, entry: JournalEntry) -> ExampleAnswer:
    text = entry.text if entry.text.strip() else entry.reasoning_content or ""
    return {
        "verdict": str(judged.verdict),
        "detail": judged.detail,
        "example_id": request.example_id,
        "attempt": judged.attempt,
        "model": judged.model,
        "finish_reason": entry.finish_reason,
        "history": [clean_title(title) for title in request.history],
        "candidates": [clean_title(title) for title in request.candidates],
        "target": request.target,
        "text": text[:_TEXT_CHARS] + ("…" if len(text) > _TEXT_CHARS else ""),
    }
