"""The stage: requests from the training examples, calls, judgement, and the kept paths.

The journal in the output folder is the only state. Whatever happens, a rerun reads it, asks for
what is missing and judges all of it again; ``summary.json`` is written last.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import RunConfig, TeacherConfig
from msrrec.data.dataset import Dataset
from msrrec.data.leakage import later_titles, shows_later
from msrrec.embedded.offline_teacher import MODEL_NAME, OfflineTeacher, serve_offline_teacher
from msrrec.engines.openai import estimate_tokens
from msrrec.errors import DataError
from msrrec.reasoning.prompts import render_plain_prompt, render_prompt, render_reasoning
from msrrec.synthesis.calls import (
    ActorPool,
    Assignment,
    TeacherRequest,
    ask_all,
    spending_of,
    status_of,
)
from msrrec.synthesis.card import write_card
from msrrec.synthesis.journal import (
    FOLDER,
    JournalEntry,
    Sampling,
    claim_journal,
    hash_prompt,
    iter_entries,
    list_journal_files,
)
from msrrec.synthesis.money import CAPS, build_budget, estimate
from msrrec.synthesis.plan import CallId, CompletionStatus, Plan, Quota, Spending
from msrrec.synthesis.pruning import provenance

logger = logging.getLogger(__name__)

Requests = dict[str, TeacherRequest]
Row = dict[str, Any]
Samplings = frozenset[Sampling]


def synthesize(
    dataset: Dataset, out: str, config: RunConfig, keys: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Ask the teachers until enough valid paths exist, and write them; Ray must be running.

    Args:
        dataset: Its training examples are asked about, or another split's.
        out: Folder for ``journal/``, ``paths.parquet``, ``verdicts.parquet``, ``card.html``,
            ``card.json`` and ``summary.json``.
        config: Sections ``teacher``, ``synthesis``, ``inference`` and ``model.answer_format`` are
            used.
        keys: API keys by the names that ``teacher.api_key_env`` gives them.

    Returns:
        The summary.

    Raises:
        DataError: If ``out`` holds answers about another dataset or can't be written, or there are
            no examples.
        EngineError: If every teacher refuses, can't be reached, or fails call after call.
        ConfigError: If money is capped and a price is missing.
    """
    begin = time.monotonic()
    requests = build_requests(dataset, config)
    config = config.model_copy(update={"teacher": _name_teachers(config.teacher)})
    journal = claim_journal(out, dataset)
    rows, spent = _sort(requests, judge_journal(journal, requests, _samplings(config)))
    plan = _plan(dataset, requests, rows, config, spent)
    num_before, num_given_up, run = len(rows), 0, uuid.uuid4().hex[:8]
    if not plan.is_finished:
        num_given_up = _ask(plan, requests, dataset, journal, config, run, keys or {})
        rows, spent = _sort(requests, judge_journal(journal, requests, _samplings(config)))
        _check_shared(journal, plan, len(rows))
    else:
        logger.info("synthesize: nothing to ask, %d answers are in the journal", len(rows))
    _warn_of_cap(
        plan, f"{plan.num_valid} valid paths; with a larger one and --overwrite the run goes on"
    )
    figures = {
        "calls_this_run": len(rows) - num_before,
        "cost_this_run": _cost(row for row in rows if row["run"] == run),
        "given_up": num_given_up,
        "failed_calls": plan.num_failed,
        "stopped_by": CAPS[plan.stopped_by] if plan.stopped_by else None,
        "in_flight": _most_in_flight(config),
        "spent": {"calls": spent.calls, "tokens": spent.tokens, "cost": round(spent.cost, 6)},
        "wall_s": round(time.monotonic() - begin, 1),
    }
    try:
        return _write(out, dataset, requests, rows, config, figures)
    except OSError as error:
        raise DataError(
            f"{out}: can't be written ({error}); free space there and run again, answers so far "
            "are kept"
        ) from error


def estimate_run(dataset: Dataset, out: str, config: RunConfig) -> dict[str, Any]:
    """What ``synthesize`` would take from here, without a call, a write, or Ray.

    Raises:
        DataError: If there are no examples.
        ConfigError: If money is capped and a price is missing.
    """
    requests = build_requests(dataset, config)
    config = config.model_copy(update={"teacher": _name_teachers(config.teacher)})
    files = list_journal_files(storage.join(out, FOLDER))
    found = [
        row
        for n, path in enumerate(files)
        for row in _judge_file(n, path, requests, _samplings(config))
    ]
    rows, spent = _sort(requests, found)
    plan = _plan(dataset, requests, rows, config, spent)
    return estimate(config, [request.prompt for request in requests.values()], rows, plan)


def _name_teachers(teacher: TeacherConfig) -> TeacherConfig:
    """The teachers by the names that their answers carry, folders as every worker finds them."""
    if teacher.engine == "api" and teacher.base_url is None:
        return teacher.model_copy(update={"model": MODEL_NAME})
    if teacher.engine == "vllm" and Path(teacher.model).is_dir():
        return teacher.model_copy(update={"model": str(Path(teacher.model).absolute())})
    return teacher


def _samplings(config: RunConfig) -> Samplings:
    """What the answers of this run are sampled with."""
    return frozenset(
        Sampling(e.model, e.temperature, e.max_tokens) for e in config.teacher.endpoints
    )


def _most_in_flight(config: RunConfig) -> int:
    teacher = config.teacher
    return teacher.concurrency * len(teacher.endpoints) * config.synthesis.num_actors


def build_requests(dataset: Dataset, config: RunConfig) -> Requests:
    """The prompts of the split's examples by example id, in their order.

    Only its own examples: what a user bought later is in no prompt. Of training examples those are
    left out whose history or candidates show what the user bought in validation or test, as after a
    repeated purchase.
    """
    split = config.synthesis.split
    examples = dataset.examples(split, config.synthesis.num_examples)
    if not examples:
        raise DataError(
            f"{dataset.path}: the {split} split has no examples; expected at least one; prepare it "
            "with data.train_examples_per_user above 0 and users of at least 4 events"
        )
    later_of = later_titles(dataset) if split == "train" else {}
    requests: Requests = {}
    for example in examples:
        history, candidates = dataset.titles(example.history), dataset.titles(example.candidates)
        later = later_of.get(example.user_id, ())
        if shows_later((*history, *candidates), later):
            continue
        render = _RENDER[config.synthesis.prompt]
        prompt = render(dataset.domain, history, candidates, config.model.answer_format)
        requests[example.example_id] = TeacherRequest(
            example.example_id,
            prompt,
            hash_prompt(prompt),
            tuple(candidates),
            example.candidates.index(example.target),
            tuple(history),
            later,
        )
    if not requests:
        raise DataError(
            f"{dataset.path}: every training prompt shows a held-out item of its user; expected "
            "users who buy other things later; check the order of their events"
        )
    return requests


def first_answers(dataset: Dataset, out: str, config: RunConfig) -> dict[str, JournalEntry]:
    """The first answer to every request of a run that has one, by example id.

    Args:
        dataset: As ``synthesize`` had it.
        out: The folder that ``synthesize`` wrote.
        config: As ``synthesize`` had it; answers to other prompts or samplings don't count.
    """
    found = _read_answers(build_requests(dataset, config), out, config, attempts=1)
    return {example_id: entry for (example_id, _), entry in found.items()}


def collect(
    requests: Requests,
    dataset: Dataset,
    out: str,
    config: RunConfig,
    keys: Mapping[str, str],
    attempts: int = 1,
) -> dict[CallId, JournalEntry]:
    """So many answers to every request, whatever they say; Ray must be running.

    Args:
        requests: By ids of the caller's choice.
        dataset: What they are about.
        out: Folder of the journal; what it answers is not asked again.
        config: As of ``synthesize``; its caps hold, its thresholds don't.
        keys: As of ``synthesize``.
        attempts: Answers to each request.

    Raises:
        DataError: As of ``synthesize``.
        EngineError: As of ``synthesize``.
        ConfigError: As of ``synthesize``.
    """
    if not requests:
        return {}
    config = config.model_copy(update={"teacher": _name_teachers(config.teacher)})
    journal = claim_journal(out, dataset)
    answered: dict[str, dict[int, CompletionStatus]] = {}
    for name, attempt in _read_answers(requests, out, config, attempts):
        answered.setdefault(name, {})[attempt] = "unreadable"
    spent = sum(map(spending_of, _iter_answers(out)), Spending())
    budget = build_budget(config, [request.prompt for request in requests.values()], spent)
    plan = Plan(requests, attempts, None, answered, budget=budget, repeats=True)
    if not plan.is_finished:
        _ask(plan, requests, dataset, journal, config, uuid.uuid4().hex[:8], keys)
    _warn_of_cap(plan, f"{plan.num_queued} calls left to make; a larger one makes them")
    found = _read_answers(requests, out, config, attempts)
    _check_shared(journal, plan, len(found))
    return found


def _read_answers(
    requests: Requests, out: str, config: RunConfig, attempts: int
) -> dict[CallId, JournalEntry]:
    """The first answer in the journal to each of so many calls a request, sampled as now."""
    samplings = _samplings(config.model_copy(update={"teacher": _name_teachers(config.teacher)}))
    found: dict[CallId, JournalEntry] = {}
    for entry in _iter_answers(out):
        request = requests.get(entry.example_id)
        is_asked = request is not None and entry.prompt_hash == request.prompt_hash
        if is_asked and entry.sampling in samplings and entry.attempt < attempts:
            found.setdefault((entry.example_id, entry.attempt), entry)
    return found


def _iter_answers(out: str) -> Iterator[JournalEntry]:
    for path in list_journal_files(storage.join(out, FOLDER)):
        yield from filter(None, iter_entries(path))


_RENDER: dict[str, Callable[..., str]] = {
    "chain": partial(render_prompt, "full"),
    "plain": render_plain_prompt,
}
"""By ``synthesis.prompt``."""


def judge_journal(journal: str, requests: Requests, samplings: Samplings) -> list[Row]:
    """A row for every answer in the journal, judged by Ray Data where it is asked for now.

    Answers to other prompts, models or samplings stay in the journal and are only counted.
    """
    files = list_journal_files(journal)
    if not files:
        return []
    import ray

    asked = ray.put((requests, samplings))

    def judge_file(row: Row) -> Iterator[Row]:
        return _judge_file(row["file"], row["path"], *ray.get(asked))

    dataset = ray.data.from_items(
        [{"file": n, "path": path} for n, path in enumerate(files)],
        override_num_blocks=len(files),
    )
    rows: list[Row] = dataset.flat_map(judge_file).take_all()
    return rows


def _judge_file(file: int, path: str, requests: Requests, samplings: Samplings) -> Iterator[Row]:
    """Rows of verdicts for one file of the journal."""
    for line, entry in enumerate(iter_entries(path)):
        if entry is None:
            logger.warning("%s: a damaged line is passed over", path)
            continue
        request = requests.get(entry.example_id)
        is_known = request is not None and entry.prompt_hash == request.prompt_hash
        is_asked = is_known and entry.sampling in samplings
        judgement = _judge_record(entry, request) if is_asked and request else _NOT_ASKED
        place = {"file": file, "line": line, "journal": f"{path.rsplit('/', 1)[-1]}:{line + 1}"}
        yield {**place, **judgement, **_account(entry)}


_NOT_ASKED: Row = {
    "verdict": "",
    "status": "",
    "detail": "",
    "steps": [],
    "estimated_prompt_tokens": 0,
}


def _judge_record(entry: JournalEntry, request: TeacherRequest) -> Row:
    judgement = request.judge(entry)
    return {
        "verdict": judgement.verdict,
        "status": status_of(judgement),
        "detail": judgement.detail,
        "steps": list(judgement.steps),
        "estimated_prompt_tokens": estimate_tokens(request.prompt),
    }


def _account(entry: JournalEntry) -> Row:
    """What a card or a bill needs of an answer."""
    return {
        "example_id": entry.example_id,
        **provenance(entry),
        "run": entry.run,
        "prompt_tokens": int(entry.usage.get("prompt_tokens", 0)),
        "completion_tokens": int(entry.usage.get("completion_tokens", 0)),
        "cost": spending_of(entry).cost if entry.cost is not None else None,
        "latency_s": entry.latency_s,
        "finish_reason": entry.finish_reason,
        "tries": entry.tries,
    }


def _sort(requests: Requests, found: Iterable[Row]) -> tuple[list[Row], Spending]:
    """The answers that are asked for, in order, and what all answers cost.

    The first answer to a call counts.
    """
    order = {example_id: n for n, example_id in enumerate(requests)}
    first: dict[CallId, Row] = {}
    spent = Spending()
    for row in sorted(found, key=lambda row: (row["file"], row["line"])):
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        spent += Spending(1, tokens, row["cost"] or 0.0)
        if row["verdict"]:
            first.setdefault((row["example_id"], row["attempt"]), row)
    rows = sorted(first.values(), key=lambda row: (order[row["example_id"]], row["attempt"]))
    return rows, spent


def _plan(
    dataset: Dataset, requests: Requests, rows: list[Row], config: RunConfig, spent: Spending
) -> Plan:
    answered: dict[str, dict[int, CompletionStatus]] = {}
    for row in rows:
        answered.setdefault(row["example_id"], {})[row["attempt"]] = row["status"]
    limits = config.synthesis
    budget = build_budget(config, [request.prompt for request in requests.values()], spent)
    quotas = _quotas(dataset, config)
    return Plan(requests, limits.attempts, limits.tau, answered, quotas, budget)


def _quotas(dataset: Dataset, config: RunConfig) -> list[Quota]:
    """The thresholds by user and by category, where they are set."""
    examples, limits = dataset.examples("train"), config.synthesis
    quotas = []
    if limits.tau_per_user is not None:
        users = {e.example_id: e.user_id for e in examples}
        quotas.append(Quota("tau_per_user", limits.tau_per_user, users))
    if limits.tau_per_category is not None:
        items = dataset.items
        narrowest = {e.example_id: (items[e.target].categories or ("",))[-1] for e in examples}
        quotas.append(Quota("tau_per_category", limits.tau_per_category, narrowest))
    return quotas


def _ask(
    plan: Plan,
    requests: Requests,
    dataset: Dataset,
    journal: str,
    config: RunConfig,
    run: str,
    keys: Mapping[str, str],
) -> int:
    """Make the plan's calls, to the offline teacher where no other is named."""
    teacher = config.teacher
    is_offline = teacher.engine == "api" and teacher.base_url is None
    with ExitStack() as stack:
        if is_offline:
            program = OfflineTeacher(dataset.items.values(), dataset.examples("train"))
            base_url = stack.enter_context(serve_offline_teacher(program))
            teacher = teacher.model_copy(update={"base_url": base_url})
        work = Assignment(
            teacher=teacher,
            keys=tuple(keys.get(endpoint.api_key_env) for endpoint in teacher.endpoints),
            journal=journal,
            run=run,
            num_actors=config.synthesis.num_actors,
            is_offline=is_offline,
            inference=config.inference,
        )
        return ask_all(plan, ActorPool(requests, work), config.synthesis.num_actors)


def _warn_of_cap(plan: Plan, state: str) -> None:
    if plan.stopped_by:
        logger.warning("synthesize: stopped by synthesis.%s with %s", CAPS[plan.stopped_by], state)


def _check_shared(journal: str, plan: Plan, num_found: int) -> None:
    """Actors on other machines write to the same folder only if it is a shared one."""
    if num_found < plan.num_answers:
        raise DataError(
            f"{journal}: holds {num_found} of {plan.num_answers} answers; expected a folder that "
            "all machines of the cluster share; choose such an --out"
        )


def _write(
    out: str,
    dataset: Dataset,
    requests: Requests,
    rows: list[Row],
    config: RunConfig,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """Paths, verdicts, the card and, last, the summary."""
    valid = _first_valid(rows)
    kept = _within(valid, config.synthesis.tau, _quotas(dataset, config))
    if not kept:
        logger.warning("synthesize: no valid path; training would see purchases alone")
    item_of = {e.example_id: e.target for e in dataset.examples(config.synthesis.split)}
    storage.write_table(storage.join(out, schema.PATHS_FILE), _paths(kept, item_of))
    verdicts = [{name: row[name] for name in schema.VERDICTS.names} for row in rows]
    storage.write_table(
        storage.join(out, "verdicts.parquet"),
        pa.Table.from_pylist(verdicts, schema=schema.VERDICTS),
    )
    counts = Counter(row["verdict"] for row in rows)
    summary = {
        "model": config.teacher.model,
        "teachers": dict(Counter(row["teacher"] for row in rows)),
        "dataset_fingerprint": dataset.fingerprint,
        "examples": len(requests),
        "left_out": len(dataset.examples("train", config.synthesis.num_examples)) - len(requests),
        "tau": config.synthesis.tau,
        "calls": len(rows),
        "kept": len(kept),
        "valid": len(valid),
        "pruned": {reason: n for reason, n in sorted(counts.items()) if reason != "kept"},
        "retries": sum(row["tries"] - 1 for row in rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "cost": _cost(rows),
        **figures,
    }
    write_card(out, dataset, requests, rows, storage.join(out, FOLDER), summary)
    storage.write_json(storage.join(out, "summary.json"), summary)
    return summary


def _cost(rows: Iterable[Row]) -> float | None:
    """What answers cost together; None where no price is known."""
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    return round(sum(costs), 6) if costs else None


def _first_valid(rows: list[Row]) -> list[Row]:
    """The first valid answer of each example that has one, in the order of the examples."""
    valid: dict[str, Row] = {}
    for row in rows:
        if row["verdict"] == "kept":
            valid.setdefault(row["example_id"], row)
    return list(valid.values())


def _within(valid: list[Row], tau: int | None, quotas: list[Quota]) -> list[Row]:
    """The first paths that the thresholds allow."""
    kept: list[Row] = []
    counts: list[Counter[str]] = [Counter() for _ in quotas]
    for row in valid:
        groups = [quota.group_of[row["example_id"]] for quota in quotas]
        if all(
            count[group] < quota.tau
            for quota, count, group in zip(quotas, counts, groups, strict=True)
        ):
            kept.append(row)
            for count, group in zip(counts, groups, strict=True):
                count[group] += 1
    return kept[:tau]


def _paths(kept: list[Row], item_of: dict[str, str]) -> pa.Table:
    rows = [
        row
        | {
            "reasoning": render_reasoning("full", row["steps"]),
            schema.ITEM_ID: item_of[row["example_id"]],
        }
        for row in kept
    ]
    paths = [{name: row[name] for name in schema.PATHS.names} for row in rows]
    return pa.Table.from_pylist(paths, schema=schema.PATHS)
