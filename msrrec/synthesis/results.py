"""Writes the results of a run: kept paths, verdicts, the data card and, last, the summary."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.reasoning.prompts import render_reasoning
from msrrec.schema import Example
from msrrec.stage import Summary
from msrrec.synthesis.card import write_card
from msrrec.synthesis.journal import FOLDER
from msrrec.synthesis.plan import Quota, Spending
from msrrec.synthesis.requests import Requests
from msrrec.synthesis.verdicts import JudgedEntry

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run, besides those of the journal.

    Attributes:
        calls_this_run: Number of completions that it added.
        cost_this_run: Cost of this run; None if no price is known.
        given_up: Number of calls in flight cancelled once there were enough paths.
        failed_calls: Number of calls without a completion.
        stopped_by: Name of the cap that prevented calls; None if no cap did.
        in_flight: Maximum number of calls at once.
        spent: Spent by all runs together.
    """

    calls_this_run: int
    cost_this_run: float | None
    given_up: int
    failed_calls: int
    stopped_by: str | None
    in_flight: int
    spent: Spending
    wall_s: float


@dataclass(frozen=True)
class JournalFigures:
    """Figures of all judged completions, whichever run requested them.

    Attributes:
        teachers: Number of completions by teacher.
        examples: Number of examples that were asked about.
        left_out: Examples whose prompt would show a later purchase.
        pruned: Number of completions that were not kept, by verdict.
        retries: Number of tries beyond the first of each call.
    """

    model: str
    teachers: Mapping[str | None, int]
    dataset_fingerprint: str
    examples: int
    left_out: int
    tau: int | None
    calls: int
    kept: int
    valid: int
    pruned: Mapping[str, int]
    retries: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def build_quotas(dataset: Dataset, config: RunConfig) -> list[Quota]:
    """The thresholds by user and by category, where they are set."""
    limits = config.synthesis
    quotas = []
    if limits.tau_per_user is not None:
        users = {e.example_id: e.user_id for e in dataset.iter_examples(limits.split)}
        quotas.append(Quota("tau_per_user", limits.tau_per_user, users))
    if limits.tau_per_category is not None:
        items = dataset.items
        narrowest = {
            e.example_id: (items[e.target].categories or ("",))[-1]
            for e in dataset.iter_examples(limits.split)
        }
        quotas.append(Quota("tau_per_category", limits.tau_per_category, narrowest))
    return quotas


def write_results(
    out: str,
    dataset: Dataset,
    requests: Requests,
    entries: Sequence[JudgedEntry],
    config: RunConfig,
    figures: RunFigures,
) -> Summary:
    """Write paths, verdicts, the card and, last, the summary, which is returned."""
    valid = _first_valid(entries)
    kept = _within(valid, config.synthesis.tau, build_quotas(dataset, config))
    if not kept:
        logger.warning("synthesize: there is no valid path; training would only see purchases")
    parts = dataset.partitions(config.synthesis.split, config.synthesis.num_examples)
    asked = {entry.example_id for entry in entries}
    examples = [e for part in parts.read() for e in part if e.example_id in asked]
    storage.write_table(storage.join(out, schema.PATHS_FILE), _paths(kept, examples))
    storage.write_table(storage.join(out, "verdicts.parquet"), _verdicts(entries))
    num_left_out = parts.num_examples - len(requests)
    counted = _count(dataset, entries, len(valid), len(kept), num_left_out, len(requests), config)
    summary: Summary = asdict(counted) | asdict(figures)
    write_card(out, dataset, examples, requests, entries, storage.join(out, FOLDER), summary)
    storage.write_json(storage.join(out, SUMMARY), summary)
    return summary


def _count(
    dataset: Dataset,
    entries: Sequence[JudgedEntry],
    num_valid: int,
    num_kept: int,
    num_left_out: int,
    num_requests: int,
    config: RunConfig,
) -> JournalFigures:
    verdicts = Counter(str(entry.verdict) for entry in entries)
    return JournalFigures(
        model=config.teacher.model,
        teachers=dict(Counter(entry.teacher for entry in entries)),
        dataset_fingerprint=dataset.fingerprint,
        examples=num_requests,
        left_out=num_left_out,
        tau=config.synthesis.tau,
        calls=len(entries),
        kept=num_kept,
        valid=num_valid,
        pruned={verdict: n for verdict, n in sorted(verdicts.items()) if verdict != "kept"},
        retries=sum(entry.tries - 1 for entry in entries),
        prompt_tokens=sum(entry.prompt_tokens for entry in entries),
        completion_tokens=sum(entry.completion_tokens for entry in entries),
        cost=total_cost(entries),
    )


def total_cost(entries: Iterable[JudgedEntry]) -> float | None:
    """The total cost of completions; None if no price is known."""
    costs = [entry.cost for entry in entries if entry.cost is not None]
    return round(sum(costs), 6) if costs else None


def _first_valid(entries: Sequence[JudgedEntry]) -> list[JudgedEntry]:
    """The first valid completion of each example that has one, in the order of the examples."""
    valid: dict[str, JudgedEntry] = {}
    for entry in entries:
        if entry.verdict == "kept":
            valid.setdefault(entry.example_id, entry)
    return list(valid.values())


def _within(
    valid: Sequence[JudgedEntry], tau: int | None, quotas: Sequence[Quota]
) -> list[JudgedEntry]:
    """The first paths that the thresholds allow."""
    kept: list[JudgedEntry] = []
    counts: list[Counter[str]] = [Counter() for _ in quotas]
    for entry in valid:
        groups = [quota.group_of[entry.example_id] for quota in quotas]
        if all(
            count[group] < quota.tau
            for quota, count, group in zip(quotas, counts, groups, strict=True)
        ):
            kept.append(entry)
            for count, group in zip(counts, groups, strict=True):
                count[group] += 1
    return kept[:tau]


def _paths(kept: Sequence[JudgedEntry], examples: Sequence[Example]) -> pa.Table:
    """The rows of ``paths.parquet``."""
    item_of = {example.example_id: example.target for example in examples}
    rows = [
        vars(entry)
        | {
            "reasoning": render_reasoning("full", entry.steps),
            schema.ITEM_ID: item_of[entry.example_id],
        }
        for entry in kept
    ]
    return _table(rows, schema.PATHS)


def _verdicts(entries: Sequence[JudgedEntry]) -> pa.Table:
    """The rows of ``verdicts.parquet``."""
    return _table(map(vars, entries), schema.VERDICTS)


def _table(rows: Iterable[Mapping[str, object]], columns: pa.Schema) -> pa.Table:
    chosen = [{name: row[name] for name in columns.names} for row in rows]
    return pa.Table.from_pylist(chosen, schema=columns)
