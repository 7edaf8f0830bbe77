"""The data card: what was asked, what was kept, why the rest was not, and what it cost.

A kept path is one that the teacher got right, so the easy users are over-represented; the kept
rates by category, popularity and history length say by how much.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, quantiles
from typing import Any

from msrrec import storage
from msrrec.data.dataset import Dataset
from msrrec.metrics.statistics import wilson
from msrrec.page import render_page, svg_points
from msrrec.reasoning.prompts import STEPS
from msrrec.schema import Example
from msrrec.synthesis.calls import TeacherRequest
from msrrec.synthesis.journal import JournalEntry, iter_entries, list_journal_files
from msrrec.titles import clean_title

CARD = "card.json"
PAGE = "card.html"

_MAX_CATEGORIES = 12
_MAX_POINTS = 200
_EXAMPLES_EACH = 2
_TEXT_CHARS = 2000

Row = Mapping[str, Any]


def write_card(
    out: str,
    dataset: Dataset,
    requests: Mapping[str, TeacherRequest],
    rows: Sequence[Row],
    journal: str,
    summary: Mapping[str, Any],
) -> None:
    """Write ``card.json`` and ``card.html``.

    Args:
        out: The folder of the stage.
        dataset: Whose training examples were asked about.
        requests: By example id.
        rows: One judgement an answer, as ``judge_journal`` gives them.
        journal: The folder of the answers.
        summary: The figures of ``summary.json``.
    """
    asked = {row["example_id"] for row in rows}
    examples = [e for e in dataset.examples("train") if e.example_id in asked]
    card = build_card(dataset, examples, rows, summary)
    card["examples"] = _pick_examples(requests, rows, journal)
    storage.write_json(storage.join(out, CARD), card)
    page = render_page("synthesis/card.html", card=card, plot=_plot(card["progress"]))
    storage.write_bytes(storage.join(out, PAGE), page)


def build_card(
    dataset: Dataset, examples: Sequence[Example], rows: Sequence[Row], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of the card.

    Args:
        dataset: For titles and categories.
        examples: Those with an answer.
        rows: One judgement an answer.
        summary: The figures of ``summary.json``.
    """
    kept = {row["example_id"] for row in rows if row["verdict"] == "kept"}
    return {
        "kind": "msrrec data card",
        "dataset": {
            "path": dataset.path,
            "domain": dataset.domain,
            "fingerprint": dataset.fingerprint,
        },
        "summary": dict(summary),
        "num_answers": len(rows),
        "num_asked_again": sum(row["attempt"] > 0 for row in rows),
        "kept": _share([e.example_id in kept for e in examples]),
        "kept_by": _slices(dataset, examples, kept),
        "verdicts": _count_verdicts(rows),
        "step_words": _step_words(rows),
        "tokens": _tokens(rows, len(kept)),
        "progress": _progress(rows),
    }


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    share = wilson(sum(hits), len(hits))
    return {"examples": len(hits), "kept": sum(hits), "share": asdict(share) if share else None}


def _slices(
    dataset: Dataset, examples: Sequence[Example], kept: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Kept rates by the target's category and popularity, and by the history's length."""
    users_of: dict[str, set[str]] = defaultdict(set)
    for example in dataset.examples("train"):
        for item_id in (*example.history, example.target):
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
) -> list[dict[str, Any]]:
    """Shares by the label of each example, in the order of the labels' places."""
    hits: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for example in examples:
        hits[place(example)].append(example.example_id in kept)
    return [{"label": key[1], **_share(hits[key])} for key in sorted(hits)]


def _doubling_bin(count: int) -> tuple[int, str]:
    """The bin of a count: 1, 2–3, 4–7, 8–15 and so on."""
    low = 1 << max(count.bit_length() - 1, 0)
    return (low, "1") if low == 1 else (low, f"{low}–{2 * low - 1}")


def _category_of(dataset: Dataset, examples: Sequence[Example]) -> dict[str, str]:
    """Each target's category at the widest level where they differ; empty where there are none."""
    paths = {e.example_id: dataset.items[e.target].categories for e in examples}
    for level in range(max(map(len, paths.values()), default=0)):
        labels = {
            example_id: clean_title(path[min(level, len(path) - 1)]) if path else "none"
            for example_id, path in paths.items()
        }
        if len(set(labels.values())) > 1:
            return labels
    return {}


def _count_verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How often each verdict came, the kept first, and its details."""
    counts = Counter(row["verdict"] for row in rows)
    details: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["detail"]:
            details[row["verdict"]][row["detail"]] += 1
    order = sorted(counts, key=lambda verdict: (verdict != "kept", -counts[verdict], verdict))
    return [
        {
            "verdict": verdict,
            "answers": counts[verdict],
            "share": counts[verdict] / len(rows),
            "details": dict(details[verdict].most_common(6)),
        }
        for verdict in order
    ]


def _step_words(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The length of each step of the kept paths in words: its first decile, median and last."""
    kept = [row["steps"] for row in rows if row["verdict"] == "kept"]
    if len(kept) < 2:
        return []
    columns = zip(STEPS["full"], zip(*kept, strict=True), strict=True)
    tenths = [(name, quantiles((len(s.split()) for s in steps), n=10)) for name, steps in columns]
    return [
        {"step": name, "p10": cuts[0], "median": cuts[4], "p90": cuts[8]} for name, cuts in tenths
    ]


def _tokens(rows: Sequence[Row], num_kept: int) -> dict[str, Any]:
    """Tokens in all, of a mean answer, and paid for one kept path, those in vain included."""
    prompt, completion = (
        [int(row[name]) for row in rows] for name in ("prompt_tokens", "completion_tokens")
    )
    total = sum(prompt) + sum(completion)
    return {
        "prompt": sum(prompt),
        "completion": sum(completion),
        "completion_mean": mean(completion) if completion else 0,
        "per_kept_path": total / num_kept if num_kept else None,
    }


def _progress(rows: Sequence[Row]) -> list[list[int]]:
    """Valid paths after so many answers, in the order of their arrival."""
    valid: set[str] = set()
    curve = [[0, 0]]
    for n, row in enumerate(sorted(rows, key=lambda row: row["answered_at_s"]), 1):
        if row["verdict"] == "kept":
            valid.add(row["example_id"])
        curve.append([n, len(valid)])
    stride = max(1, -(-len(curve) // _MAX_POINTS))
    return curve[::stride] + ([curve[-1]] if (len(curve) - 1) % stride else [])


def _plot(progress: Sequence[Sequence[int]]) -> dict[str, Any]:
    calls, valid = progress[-1]
    points = [(600 * x / max(calls, 1), 200 - 190 * y / max(calls, 1)) for x, y in progress]
    return {"points": svg_points(points), "calls": calls, "valid": valid}


def _pick_examples(
    requests: Mapping[str, TeacherRequest], rows: Sequence[Row], journal: str
) -> list[dict[str, Any]]:
    """The first answers of each verdict, so that nobody picked them."""
    picked: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if len(picked[row["verdict"]]) < _EXAMPLES_EACH:
            picked[row["verdict"]].append(row)
    chosen = [row for verdict in _count_verdicts(rows) for row in picked[verdict["verdict"]]]
    entries = _read_entries(journal, {(row["file"], row["line"]) for row in chosen})
    return [
        _example(requests[row["example_id"]], row, entries[row["file"], row["line"]])
        for row in chosen
    ]


def _read_entries(
    journal: str, places: set[tuple[int, int]]
) -> dict[tuple[int, int], JournalEntry]:
    """The entries at some lines of some files of the journal."""
    found: dict[tuple[int, int], JournalEntry] = {}
    files = list_journal_files(journal)
    for file in sorted({file for file, _ in places}):
        for line, entry in enumerate(iter_entries(files[file])):
            if entry is not None and (file, line) in places:
                found[file, line] = entry
    return found


def _example(request: TeacherRequest, row: Row, entry: JournalEntry) -> dict[str, Any]:
    text = entry.text if entry.text.strip() else entry.reasoning_content or ""
    return {
        "verdict": row["verdict"],
        "detail": row["detail"],
        "example_id": request.example_id,
        "attempt": row["attempt"],
        "model": row["model"],
        "finish_reason": entry.finish_reason,
        "history": [clean_title(title) for title in request.history],
        "candidates": [clean_title(title) for title in request.candidates],
        "target": request.target,
        "text": text[:_TEXT_CHARS] + ("…" if len(text) > _TEXT_CHARS else ""),
    }
