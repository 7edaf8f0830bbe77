"""The stage ``synthesize``: requests from examples, calls, verdicts, and the kept paths.

The journal in the output folder is the only state. A rerun reads it, requests what is missing and
judges everything again; ``summary.json`` is written last.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from msrrec import storage
from msrrec.chat.keys import find_key, require_key
from msrrec.config import RunConfig, TeacherConfig
from msrrec.data.dataset import Dataset
from msrrec.embedded.offline_teacher import (
    MODEL_NAME,
    MODEL_NAMES,
    OfflineTeacher,
    serve_offline_teacher,
)
from msrrec.errors import DataError
from msrrec.hub import find_token
from msrrec.nodes import check_shared
from msrrec.stage import Summary
from msrrec.synthesis.actor_pool import ActorPool, run_calls
from msrrec.synthesis.journal import (
    FOLDER,
    JournalEntry,
    claim_journal,
    iter_entries,
    list_journal_files,
)
from msrrec.synthesis.money import CAPS, build_budget, estimate
from msrrec.synthesis.plan import CallId, CompletionStatus, Plan, Spending
from msrrec.synthesis.requests import Requests, build_requests, iter_prompts
from msrrec.synthesis.results import RunFigures, build_quotas, total_cost, write_results
from msrrec.synthesis.teacher_actor import ActorSettings
from msrrec.synthesis.verdicts import (
    JudgedEntry,
    judge_journal,
    judge_journal_here,
    samplings_of,
    sort_entries,
    spending_of,
)

logger = logging.getLogger(__name__)


def synthesize(
    dataset: Dataset, out: str, config: RunConfig, keys: Mapping[str, str] | None = None
) -> Summary:
    """Call the teachers until there are enough valid paths, and write them; Ray must be running.

    Args:
        dataset: The dataset whose examples the teacher is asked about.
        out: Folder for ``journal/``, ``paths.parquet``, ``verdicts.parquet``, ``card.html``,
            ``card.json`` and ``summary.json``.
        config: Sections ``teacher``, ``synthesis``, ``inference`` and ``prompt`` are
            used.
        keys: API keys by the names that ``teacher.api_key_env`` gives them.

    Returns:
        The summary.

    Raises:
        DataError: If ``out`` holds completions about another dataset or can't be written, or there
            are no examples.
        EngineError: If every teacher refuses, can't be reached, or fails call after call.
        ConfigError: If money is capped and a price is missing, or a key is before the first call.
    """
    begin = time.monotonic()
    requests = build_requests(dataset, config)
    config = _with_named_teachers(config)
    journal = claim_journal(out, dataset)
    entries, spent = _judge(journal, requests, config)
    plan = _plan(dataset, requests, entries, config, spent)
    num_before, num_given_up, run = len(entries), 0, uuid.uuid4().hex[:8]
    if not plan.is_finished:
        check_shared(journal)
        num_given_up = _make_calls(plan, requests, dataset, journal, config, run, keys or {})
        entries, spent = _judge(journal, requests, config)
        _check_shared(journal, plan, len(entries))
    else:
        logger.info("synthesize: no calls to make, %d completions are in the journal", len(entries))
    _warn_of_cap(plan, f"{plan.num_valid} valid paths; raise it and use --overwrite to continue")
    figures = RunFigures(
        calls_this_run=len(entries) - num_before,
        cost_this_run=total_cost(entry for entry in entries if entry.run == run),
        given_up=num_given_up,
        failed_calls=plan.num_failed,
        stopped_by=CAPS[plan.stopped_by] if plan.stopped_by else None,
        in_flight=_most_in_flight(config),
        spent=replace(spent, cost=round(spent.cost, 6)),
        wall_s=round(time.monotonic() - begin, 1),
    )
    try:
        return write_results(out, dataset, requests, entries, config, figures)
    except OSError as error:
        raise DataError(
            f"{out}: can't be written ({error}); free space there and run again; "
            "completions so far are kept"
        ) from error


def _judge(
    journal: str, requests: Requests, config: RunConfig
) -> tuple[list[JudgedEntry], Spending]:
    """The completions in the journal that count for this run, and the cost of all of them."""
    return sort_entries(requests, judge_journal(journal, requests, samplings_of(config)))


def estimate_run(dataset: Dataset, out: str, config: RunConfig) -> Summary:
    """What ``synthesize`` would still take, without a call, a write, or Ray.

    Raises:
        DataError: If there are no examples.
        ConfigError: If money is capped and a price is missing.
    """
    requests = build_requests(dataset, config)
    config = _with_named_teachers(config)
    found = judge_journal_here(storage.join(out, FOLDER), requests, samplings_of(config))
    entries, spent = sort_entries(requests, found)
    plan = _plan(dataset, requests, entries, config, spent)
    return asdict(estimate(config, iter_prompts(requests), entries, plan))


def require_keys(teacher: TeacherConfig, keys: Mapping[str, str]) -> None:
    """Refuse teachers whose API key is missing.

    Raises:
        ConfigError: If one is; see ``require_key``.
    """
    for endpoint in teacher.endpoints:
        if endpoint.engine == "api":
            require_key("teacher", endpoint, find_key(endpoint, keys))


def _with_named_teachers(config: RunConfig) -> RunConfig:
    """The settings with teacher names as in the journal, and folders as absolute paths."""
    teacher = config.teacher
    if teacher.engine == "api" and teacher.base_url is None:
        offline = teacher.model if teacher.model in MODEL_NAMES else MODEL_NAME
        teacher = teacher.model_copy(update={"model": offline})
    if teacher.engine == "vllm" and Path(teacher.model).is_dir():
        teacher = teacher.model_copy(update={"model": str(Path(teacher.model).absolute())})
    return config.model_copy(update={"teacher": teacher})


def _most_in_flight(config: RunConfig) -> int:
    teacher = config.teacher
    return teacher.concurrency * len(teacher.endpoints) * config.synthesis.num_actors


def first_answers(dataset: Dataset, out: str, config: RunConfig) -> dict[str, JournalEntry]:
    """The first completion of each request of a run that has one, by example id.

    Args:
        dataset: As ``synthesize`` had it.
        out: The output folder of ``synthesize``.
        config: The settings given to ``synthesize``; completions of other prompts or samplings are
            ignored.
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
    """A fixed number of completions of every request, whatever they say; Ray must be running.

    Args:
        requests: Requests by any ids.
        dataset: The dataset that they are about.
        out: Folder of the journal; its completions are not requested again.
        config: As for ``synthesize``; its caps apply, its thresholds do not.
        keys: As for ``synthesize``.
        attempts: Number of completions per request.

    Raises:
        DataError: As in ``synthesize``.
        EngineError: As in ``synthesize``.
        ConfigError: As in ``synthesize``.
    """
    if not requests:
        return {}
    config = _with_named_teachers(config)
    journal = claim_journal(out, dataset)
    answered: dict[str, dict[int, CompletionStatus]] = {}
    for name, attempt in _read_answers(requests, out, config, attempts):
        answered.setdefault(name, {})[attempt] = "unreadable"
    spent = sum(map(spending_of, _iter_answers(out)), Spending())
    budget = build_budget(config, iter_prompts(requests), spent)
    plan = Plan(requests, attempts, None, answered, budget=budget, repeats=True)
    if not plan.is_finished:
        _make_calls(plan, requests, dataset, journal, config, uuid.uuid4().hex[:8], keys)
    _warn_of_cap(plan, f"{plan.num_queued} calls left to make; raise it to make them")
    found = _read_answers(requests, out, config, attempts)
    _check_shared(journal, plan, len(found))
    return found


def _read_answers(
    requests: Requests, out: str, config: RunConfig, attempts: int
) -> dict[CallId, JournalEntry]:
    """The first completion in the journal for each attempt of each request, sampled as now."""
    samplings = samplings_of(_with_named_teachers(config))
    found: dict[CallId, JournalEntry] = {}
    for entry in _iter_answers(out):
        request = requests.get(entry.example_id)
        is_asked = request is not None and request.is_answered_by(entry)
        if is_asked and entry.sampling in samplings and entry.attempt < attempts:
            found.setdefault((entry.example_id, entry.attempt), entry)
    return found


def _iter_answers(out: str) -> Iterator[JournalEntry]:
    for path in list_journal_files(storage.join(out, FOLDER)):
        yield from filter(None, iter_entries(path))


def _plan(
    dataset: Dataset,
    requests: Requests,
    entries: Sequence[JudgedEntry],
    config: RunConfig,
    spent: Spending,
) -> Plan:
    answered: dict[str, dict[int, CompletionStatus]] = {}
    for entry in entries:
        if entry.status is not None:
            answered.setdefault(entry.example_id, {})[entry.attempt] = entry.status
    limits = config.synthesis
    budget = build_budget(config, iter_prompts(requests), spent)
    quotas = build_quotas(dataset, config)
    return Plan(requests, limits.attempts, limits.tau, answered, quotas, budget)


def _make_calls(
    plan: Plan,
    requests: Requests,
    dataset: Dataset,
    journal: str,
    config: RunConfig,
    run: str,
    keys: Mapping[str, str],
) -> int:
    """Make the plan's calls, to the offline teacher if no other is configured."""
    teacher = config.teacher
    require_keys(teacher, keys)
    is_offline = teacher.engine == "api" and teacher.base_url is None
    with ExitStack() as stack:
        if is_offline:
            program = OfflineTeacher(dataset.items.values(), dataset.iter_examples("train"))
            base_url = stack.enter_context(serve_offline_teacher(program))
            teacher = teacher.model_copy(update={"base_url": base_url})
        settings = ActorSettings(
            teacher=teacher,
            keys=tuple(find_key(endpoint, keys) for endpoint in teacher.endpoints),
            journal=journal,
            run=run,
            num_actors=config.synthesis.num_actors,
            is_offline=is_offline,
            inference=config.inference,
            use_chat_template=config.prompt.use_chat_template,
            hub_token=find_token() if _loads_weights(teacher) else None,
        )
        return run_calls(plan, ActorPool(requests, settings), config.synthesis.num_actors)


def _loads_weights(teacher: TeacherConfig) -> bool:
    return any(endpoint.engine == "vllm" for endpoint in teacher.endpoints)


def _warn_of_cap(plan: Plan, state: str) -> None:
    if plan.stopped_by:
        logger.warning("synthesize: stopped by synthesis.%s with %s", CAPS[plan.stopped_by], state)


def _check_shared(journal: str, plan: Plan, num_found: int) -> None:
    """Check that completions of actors on other machines arrive in the same folder."""
    if num_found < plan.num_answers:
        raise DataError(
            f"{journal}: holds {num_found} of {plan.num_answers} completions; expected a folder "
            "that all machines of the cluster share; choose such an --out"
        )
