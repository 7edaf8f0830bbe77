"""The stage: questions from the training examples, calls, judgement, and the kept paths.

The journal in the output folder is the only state. Whatever happens, a rerun reads it, asks for
what is missing and judges all of it again; ``summary.json`` is written last.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from msrrec import schema, storage
from msrrec.config import RunConfig, TeacherConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.offline_teacher import MODEL_NAME, serve_offline_teacher
from msrrec.errors import DataError
from msrrec.reasoning.prompts import render_prompt, render_reasoning
from msrrec.synthesis.calls import Crew, Question, ask_all
from msrrec.synthesis.journal import (
    Record,
    Sampling,
    claim_journal,
    hash_prompt,
    iter_records,
    list_journal,
)
from msrrec.synthesis.plan import Ask, Plan
from msrrec.synthesis.pruning import judge

logger = logging.getLogger(__name__)

Questions = dict[str, Question]
Row = dict[str, Any]


def synthesize(
    dataset: Dataset, out: str, config: RunConfig, api_key: str | None = None
) -> dict[str, Any]:
    """Ask the teacher until enough valid paths exist, and write them; Ray must be running.

    Args:
        dataset: Its training examples are asked about, or another split's.
        out: Folder for ``journal/``, ``paths.parquet``, ``verdicts.parquet`` and ``summary.json``.
        config: Sections ``teacher``, ``synthesis`` and ``model.answer_format`` are used.
        api_key: The teacher's key; None where it wants none.

    Returns:
        The summary.

    Raises:
        DataError: If ``out`` holds answers about another dataset, or there are no examples.
        EngineError: If the teacher refuses, can't be reached, or fails call after call.
    """
    begin = time.monotonic()
    questions = build_questions(dataset, config)
    journal = claim_journal(out, dataset)
    is_offline = config.teacher.base_url is None
    model = MODEL_NAME if is_offline else config.teacher.model
    teacher = config.teacher.model_copy(update={"model": model})
    sampling = Sampling(model, teacher.temperature, teacher.max_tokens)
    rows = judge_journal(journal, questions, sampling)
    plan = _plan(questions, rows, config)
    num_before, num_given_up = len(rows), 0
    if not plan.is_finished:
        num_given_up = _ask(plan, questions, dataset, teacher, api_key, journal, config)
        rows = judge_journal(journal, questions, sampling)
        _check_shared(journal, plan, rows)
    else:
        logger.info("synthesize: nothing to ask, %d answers are in the journal", len(rows))
    run = {
        "calls_this_run": len(rows) - num_before,
        "given_up": num_given_up,
        "failed_calls": plan.num_failed,
        "in_flight": teacher.concurrency * config.synthesis.num_actors,
        "wall_s": round(time.monotonic() - begin, 1),
    }
    return _write(out, dataset, questions, rows, config, sampling, run)


def build_questions(dataset: Dataset, config: RunConfig) -> Questions:
    """The prompts of the split's examples by example id, in their order.

    Only its own examples: what a user bought later is in no prompt.
    """
    split = config.synthesis.split
    examples = dataset.examples(split, config.synthesis.num_examples)
    if not examples:
        raise DataError(
            f"{dataset.path}: the {split} split has no examples; expected at least one; prepare it "
            "with data.train_examples_per_user above 0 and users of at least 4 events"
        )
    questions: Questions = {}
    for example in examples:
        candidates = tuple(dataset.titles(example.candidates))
        prompt = render_prompt(
            "full",
            dataset.domain,
            dataset.titles(example.history),
            candidates,
            config.model.answer_format,
        )
        questions[example.example_id] = Question(
            example.example_id,
            prompt,
            hash_prompt(prompt),
            candidates,
            example.candidates.index(example.target),
        )
    return questions


def judge_journal(journal: str, questions: Questions, sampling: Sampling) -> list[Row]:
    """A verdict for every answer to the questions as they are asked now, by Ray Data.

    Answers to other prompts, models or samplings stay in the journal and out of this. The first
    answer to a call counts.
    """
    files = list_journal(journal)
    if not files:
        return []
    import ray

    asked = ray.put((questions, sampling))
    dataset = ray.data.from_items(
        [{"file": n, "path": path} for n, path in enumerate(files)],
        override_num_blocks=len(files),
    )
    rows = dataset.flat_map(_judge_file, fn_kwargs={"asked": asked}).take_all()
    order = {example_id: n for n, example_id in enumerate(questions)}
    first: dict[Ask, Row] = {}
    for row in sorted(rows, key=lambda row: (row["file"], row["line"])):
        first.setdefault((row["example_id"], row["attempt"]), row)
    return sorted(first.values(), key=lambda row: (order[row["example_id"]], row["attempt"]))


def _judge_file(row: Row, asked: Any) -> Iterator[Row]:
    """Rows of verdicts for one file of the journal."""
    import ray

    questions, sampling = ray.get(asked)
    for line, record in enumerate(iter_records(row["path"])):
        if record is None:
            logger.warning("%s: a damaged line is passed over", row["path"])
            continue
        question = questions.get(record.example_id)
        is_known = question is not None and record.prompt_hash == question.prompt_hash
        if is_known and record.sampling == sampling:
            yield {"file": row["file"], "line": line, **_judge_record(record, question)}


def _judge_record(record: Record, question: Question) -> Row:
    verdict = judge(record, question.candidates, question.target)
    return {
        "example_id": record.example_id,
        "attempt": record.attempt,
        "ruling": verdict.ruling,
        "detail": verdict.detail,
        "steps": list(verdict.steps),
        "model": record.sampling.model,
        "prompt_tokens": int(record.usage.get("prompt_tokens", 0)),
        "completion_tokens": int(record.usage.get("completion_tokens", 0)),
        "cost": record.usage.get("cost"),
        "tries": record.tries,
    }


def _plan(questions: Questions, rows: list[Row], config: RunConfig) -> Plan:
    answered: dict[str, dict[int, bool]] = {}
    for row in rows:
        answered.setdefault(row["example_id"], {})[row["attempt"]] = row["ruling"] == "kept"
    return Plan(questions, config.synthesis.attempts, config.synthesis.tau, answered)


def _ask(
    plan: Plan,
    questions: Questions,
    dataset: Dataset,
    teacher: TeacherConfig,
    api_key: str | None,
    journal: str,
    config: RunConfig,
) -> int:
    """Make the plan's calls, to the offline teacher where no other is named."""
    is_offline = teacher.base_url is None
    with ExitStack() as stack:
        if is_offline:
            base_url = stack.enter_context(serve_offline_teacher(dataset))
            teacher = teacher.model_copy(update={"base_url": base_url})
        crew = Crew(questions, teacher, api_key, journal, is_offline=is_offline)
        return ask_all(plan, crew, config.synthesis.num_actors)


def _check_shared(journal: str, plan: Plan, rows: list[Row]) -> None:
    """Actors on other machines write to the same folder only if it is a shared one."""
    if len(rows) < plan.num_answers:
        raise DataError(
            f"{journal}: holds {len(rows)} of {plan.num_answers} answers; expected a folder that "
            "all machines of the cluster share; choose such an --out"
        )


def _write(
    out: str,
    dataset: Dataset,
    questions: Questions,
    rows: list[Row],
    config: RunConfig,
    sampling: Sampling,
    run: dict[str, Any],
) -> dict[str, Any]:
    """Paths, verdicts and, last, the summary."""
    kept = _first_valid(rows)
    num_valid, tau = len(kept), config.synthesis.tau
    kept = kept[:tau]
    if not kept:
        logger.warning("synthesize: no valid path; training would see purchases alone")
    item_of = {e.example_id: e.target for e in dataset.examples(config.synthesis.split)}
    storage.write_table(storage.join(out, "paths.parquet"), _paths(kept, item_of))
    verdicts = [{name: row[name] for name in schema.VERDICTS.names} for row in rows]
    storage.write_table(
        storage.join(out, "verdicts.parquet"),
        pa.Table.from_pylist(verdicts, schema=schema.VERDICTS),
    )
    rulings = Counter(row["ruling"] for row in rows)
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    summary = {
        "model": sampling.model,
        "dataset_fingerprint": dataset.fingerprint,
        "examples": len(questions),
        "tau": tau,
        "calls": len(rows),
        "kept": len(kept),
        "valid": num_valid,
        "pruned": {reason: n for reason, n in sorted(rulings.items()) if reason != "kept"},
        "retries": sum(row["tries"] - 1 for row in rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "cost": round(sum(costs), 6) if costs else None,
        **run,
    }
    storage.write_json(storage.join(out, "summary.json"), summary)
    return summary


def _first_valid(rows: list[Row]) -> list[Row]:
    """The first valid answer of each example that has one, in the order of the examples."""
    valid: dict[str, Row] = {}
    for row in rows:
        if row["ruling"] == "kept":
            valid.setdefault(row["example_id"], row)
    return list(valid.values())


def _paths(kept: list[Row], item_of: dict[str, str]) -> pa.Table:
    rows = [
        {
            "example_id": row["example_id"],
            "steps": list(row["steps"]),
            "reasoning": render_reasoning("full", row["steps"]),
            schema.ITEM_ID: item_of[row["example_id"]],
            "model": row["model"],
        }
        for row in kept
    ]
    return pa.Table.from_pylist(rows, schema=schema.PATHS)
