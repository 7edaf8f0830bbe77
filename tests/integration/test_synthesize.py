"""The stage against a stand-in teacher that counts every request, and against the offline one."""

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.comparison.recsaver import evaluate_verified
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.embedded.offline_teacher import MODEL_NAME, OfflineTeacher
from msrrec.engines.loopback import serve_on_loopback
from msrrec.errors import EngineError
from msrrec.evaluation.results import EvaluationResult
from msrrec.models import ModelSource
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import Chain, parse_chain
from msrrec.synthesis.journal import iter_entries, list_journal_files
from msrrec.synthesis.requests import build_requests
from msrrec.synthesis.synthesize import collect, synthesize
from msrrec.synthesis.verdicts import judge_journal
from tests.support.dataset import write_cycle, write_dataset

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

NUM_EXAMPLES = 120
MODEL = "stand-in"
KEYS = {"TEACHER_API_KEY": "secret"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), NUM_EXAMPLES)


Reply = tuple[int, Any, dict[str, str]]
Behave = Callable[[int, str], Reply | None]
"""From the number of the request and its prompt to a reply; None for a good answer."""


class StandIn:
    """A teacher over HTTP that answers like the offline one, and remembers what it was asked."""

    def __init__(self, dataset: Dataset, behave: Behave, latency_s: float) -> None:
        self.teacher, self.behave, self.latency_s = (
            OfflineTeacher(dataset.items.values(), dataset.examples("train")),
            behave,
            latency_s,
        )
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self.url = ""
        self._lock = threading.Lock()

    def app(self) -> Any:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response

        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.keys.add(request.headers.get("authorization", ""))
            status, content, headers = await self._reply(body)
            if isinstance(content, str):
                return Response(content, status, headers, media_type="application/json")
            return JSONResponse(content, status, headers)

        return app

    async def _reply(self, body: dict[str, Any]) -> Reply:
        prompt = body["messages"][0]["content"]
        self.bodies.append(body)
        number = len(self.bodies)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            reply = self.behave(number, prompt)
        finally:
            self.in_flight -= 1
        self.asked[prompt] += 1
        return reply or (200, self.good(prompt), {})

    def good(self, prompt: str, **message: Any) -> dict[str, Any]:
        answer = self.teacher.answer(prompt)
        assert answer is not None
        row = {"role": "assistant", "content": answer[0], **message}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": f"{MODEL}-2",
            "choices": [{"index": 0, "message": row, "finish_reason": answer[1]}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
        }


@contextmanager
def stand_in(
    dataset: Dataset, behave: Behave = lambda n, prompt: None, latency_s: float = 0.02
) -> Iterator[StandIn]:
    server = StandIn(dataset, behave, latency_s)
    with serve_on_loopback(server.app()) as url:
        server.url = f"{url}/v1"
        yield server


def config_for(url: str | None, *overrides: str) -> RunConfig:
    where = [f"teacher.base_url={url}", f"teacher.model={MODEL}"] if url else []
    return load_config(None, [*where, "teacher.concurrency=8", *overrides])


def rows_of(out: Path, name: str, columns: pa.Schema) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = storage.read_table(str(out / name), columns).to_pylist()
    return rows


def test_the_offline_teacher_writes_paths_that_are_consistent_and_its_own(
    dataset: Dataset, tmp_path: Path
) -> None:
    summary = synthesize(dataset, str(tmp_path), config_for(None))
    examples = {e.example_id: e for e in dataset.examples("train")}
    paths = rows_of(tmp_path, "paths.parquet", schema.PATHS)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["kept"] == len(paths) > NUM_EXAMPLES / 3
    assert summary["kept"] + sum(summary["pruned"].values()) == summary["calls"] == NUM_EXAMPLES
    assert summary["pruned"]["inconsistent"] > 0
    for path in paths:
        example = examples[path["example_id"]]
        assert path["item_id"] == example.target
        assert path["model"] == MODEL_NAME
        assert parse_chain(path["reasoning"]) == Chain(tuple(path["steps"]))
        titles = dataset.titles(example.candidates)
        assert parse_recommendation(path["steps"][4], titles) == example.candidates.index(
            example.target
        )
    verdicts = rows_of(tmp_path, "verdicts.parquet", schema.VERDICTS)
    assert [v["example_id"] for v in verdicts] == list(examples)
    assert sum(v["verdict"] == "kept" for v in verdicts) == len(paths)


def test_a_large_journal_is_judged_on_ray_as_a_small_one_is_in_this_process(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(None, "synthesis.num_examples=20", "synthesis.num_actors=2")
    synthesize(dataset, str(tmp_path), config)
    journal = str(tmp_path / "journal")
    files = list_journal_files(journal)
    samplings = frozenset(r.sampling for file in files for r in iter_entries(file) if r)
    asked = journal, build_requests(dataset, config), samplings
    with monkeypatch.context() as without:
        without.setattr("ray.data.from_items", None)
        here = judge_journal(*asked)
    assert len(here) == 20
    assert {entry.file for entry in here} == {0, 1}
    assert {"kept", "inconsistent"} <= {entry.verdict for entry in here}
    monkeypatch.setattr("msrrec.synthesis.verdicts.SMALL_BYTES", 0)
    by_place = attrgetter("file", "line")
    assert sorted(judge_journal(*asked), key=by_place) == sorted(here, key=by_place)


def test_every_answer_is_journaled_and_none_is_paid_for_twice(
    dataset: Dataset, tmp_path: Path
) -> None:
    def behave(n: int, prompt: str) -> Reply:
        return 200, server.good(prompt, reasoning_content="thinking"), {}

    with stand_in(dataset, behave) as server:
        first = synthesize(dataset, str(tmp_path), config_for(server.url), KEYS)
        again = synthesize(dataset, str(tmp_path), config_for(server.url), KEYS)
        prompts = {q.prompt for q in build_requests(dataset, RunConfig()).values()}
        assert server.asked == Counter(prompts)
        assert server.keys == {"Bearer secret"}
        assert server.most_in_flight == 8
        assert all("seed" not in body for body in server.bodies)
        # another sampling is another call; back again, the first answers are there
        warmer = config_for(server.url, "teacher.temperature=1.0", "synthesis.num_examples=5")
        assert synthesize(dataset, str(tmp_path), warmer)["calls"] == 5
        assert synthesize(dataset, str(tmp_path), config_for(server.url))["calls_this_run"] == 0
        assert sum(server.asked.values()) == NUM_EXAMPLES + 5
    assert (first["calls_this_run"], again["calls_this_run"]) == (NUM_EXAMPLES, 0)
    assert again["kept"] == first["kept"] > 0
    assert (first["prompt_tokens"], first["completion_tokens"]) == (840, 600)  # 7 and 5 each
    records = [
        r for f in list_journal_files(str(tmp_path / "journal")) for r in iter_entries(f) if r
    ]
    assert len(records) == NUM_EXAMPLES + 5
    assert {r.reasoning_content for r in records} == {"thinking"}
    assert {r.served_model for r in records} == {f"{MODEL}-2"}
    assert b"secret" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_no_prompt_shows_what_was_bought_beyond_the_candidates(dataset: Dataset) -> None:
    questions = build_requests(dataset, RunConfig())
    for example in dataset.examples("train"):
        question = questions[example.example_id]
        shown = [*dataset.titles(example.history), *dataset.titles(example.candidates)]
        assert question.prompt.count("\n- ") + question.prompt.count("\n(") == len(shown)
        # moving the target changes nothing but the place of the target
        assert str(question.target) not in question.prompt.split("Candidates:")[0].split("\n")


@pytest.mark.parametrize("num_actors", [1, 2])
def test_it_stops_at_tau_with_no_more_extra_calls_than_were_in_flight(
    dataset: Dataset, tmp_path: Path, num_actors: int
) -> None:
    overrides = ("synthesis.tau=20", f"synthesis.num_actors={num_actors}")
    with stand_in(dataset, latency_s=0.05) as server:
        summary = synthesize(dataset, str(tmp_path), config_for(server.url, *overrides))
        time.sleep(0.3)
        made = len(server.bodies)
    verdicts = rows_of(tmp_path, "verdicts.parquet", schema.VERDICTS)
    kept = [v for v in verdicts if v["verdict"] == "kept"]
    assert summary["kept"] == 20 <= summary["valid"] == len(kept)
    assert made <= summary["calls"] + summary["given_up"]
    assert made - summary["calls"] <= 8 * num_actors
    assert summary["valid"] - 20 <= 8 * num_actors
    assert made < NUM_EXAMPLES
    # a larger threshold goes on from there, a smaller one asks nothing
    smaller = config_for("http://127.0.0.1:9/v1", "synthesis.tau=10")
    assert synthesize(dataset, str(tmp_path), smaller)["kept"] == 10


def test_attempts_ask_again_only_what_could_not_be_read_and_never_for_the_label(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = config_for(None, "synthesis.attempts=3")
    summary = synthesize(dataset, str(tmp_path), config)
    verdicts = rows_of(tmp_path, "verdicts.parquet", schema.VERDICTS)
    attempts: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for v in verdicts:
        attempts[v["example_id"]].append((v["attempt"], v["verdict"]))
    for tried in attempts.values():
        assert [n for n, _ in tried] == list(range(len(tried)))
        assert not {"kept", "inconsistent"} & {verdict for _, verdict in tried[:-1]}
        assert len(tried) == 3 or tried[-1][1] in ("kept", "inconsistent")
    assert summary["calls"] == len(verdicts) > NUM_EXAMPLES


def test_samples_are_all_asked_for_and_none_is_paid_for_twice(
    dataset: Dataset, tmp_path: Path
) -> None:
    questions = dict(list(build_requests(dataset, RunConfig()).items())[:10])
    with stand_in(dataset) as server:
        capped = config_for(server.url, "synthesis.max_calls=12")
        assert len(collect(questions, dataset, str(tmp_path), capped, KEYS, 3)) == 12
        found = collect(questions, dataset, str(tmp_path), config_for(server.url), KEYS, 3)
        assert set(found) == {(name, n) for name in questions for n in range(3)}
        assert sum(server.asked.values()) == 30
        assert set(server.asked.values()) == {3}
        fewer = collect(questions, dataset, str(tmp_path), config_for(server.url), KEYS, 2)
        assert set(fewer) == {(name, n) for name in questions for n in range(2)}
        assert collect({}, dataset, str(tmp_path), config_for(server.url), KEYS) == {}


def test_recsavers_verification_goes_its_whole_road(tmp_path: Path) -> None:
    cycle = write_cycle(tmp_path / "dataset", num_users=20)
    for folder in ("first", "again"):
        out = str(tmp_path / folder)
        evaluate_verified(cycle, out, str(tmp_path / "answers"), load_config(), {})
        api = EvaluationResult.load(out).api
        assert api is not None
        assert api.samples == api.verified == 60
        assert 60 < api.calls <= 120
    files = list_journal_files(str(tmp_path / "answers" / "journal"))
    assert sum(1 for file in files for _ in iter_entries(file)) == api.calls


def test_transport_errors_are_retried_until_every_answer_is_there(
    dataset: Dataset, tmp_path: Path
) -> None:
    faults: list[Reply] = [
        (429, {"error": {"message": "slow down"}}, {"retry-after": "0.1"}),
        (500, {"error": {"message": "oops"}}, {}),
        (503, "busy", {}),
        (200, "{not json", {}),
        (200, {"object": "chat.completion"}, {}),
        (200, {"choices": []}, {}),
        (200, '"a string"', {}),
    ]

    def behave(n: int, prompt: str) -> Reply | None:
        return faults[n // 5 % len(faults)] if n % 5 == 0 else None

    with stand_in(dataset, behave) as server:
        config = config_for(server.url, "teacher.max_retries=6")
        summary = synthesize(dataset, str(tmp_path), config)
        made = len(server.bodies)
    assert (summary["calls"], summary["failed_calls"]) == (NUM_EXAMPLES, 0)
    assert summary["retries"] == made - NUM_EXAMPLES >= NUM_EXAMPLES // 5


def test_a_call_that_fails_for_good_is_counted_and_asked_again_by_a_rerun(
    dataset: Dataset, tmp_path: Path
) -> None:
    broken = True

    def behave(n: int, prompt: str) -> Reply | None:
        bad = broken and prompt in bad_prompts
        return (400, {"error": {"message": "too long"}}, {}) if bad else None

    prompts = [q.prompt for q in build_requests(dataset, RunConfig()).values()]
    bad_prompts = set(prompts[::40])
    with stand_in(dataset, behave) as server:
        summary = synthesize(dataset, str(tmp_path), config_for(server.url))
        assert (summary["calls"], summary["failed_calls"]) == (NUM_EXAMPLES - 3, 3)
        broken = False
        summary = synthesize(dataset, str(tmp_path), config_for(server.url))
        assert (summary["calls"], summary["calls_this_run"]) == (NUM_EXAMPLES, 3)


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, {"message": "bad key"}, "refused the key"),
        (402, {"message": "Insufficient Balance"}, "the balance is exhausted"),
        (429, {"message": "quota", "code": "insufficient_quota"}, "the balance is exhausted"),
        (404, {"message": "no such model"}, "no such path or model 'stand-in'"),
    ],
)
def test_a_teacher_that_refuses_stops_the_run_with_one_sentence_and_the_journal_intact(
    dataset: Dataset, tmp_path: Path, status: int, error: dict[str, str], sentence: str
) -> None:
    def behave(n: int, prompt: str) -> Reply | None:
        return (status, {"error": error}, {}) if n > 30 else None

    with stand_in(dataset, behave) as server:
        with pytest.raises(EngineError, match=sentence) as caught:
            synthesize(dataset, str(tmp_path), config_for(server.url))
        assert len(server.bodies) <= 30 + 2 * 8
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "summary.json").exists()
    records = [r for f in list_journal_files(str(tmp_path / "journal")) for r in iter_entries(f)]
    assert len(records) == 30


def test_an_address_where_nobody_listens_is_one_sentence_after_few_tries(
    dataset: Dataset, tmp_path: Path
) -> None:
    patient = config_for("http://127.0.0.1:9/v1", "teacher.max_retries=1000")  # for hours
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1: no server answers there"):
        synthesize(dataset, str(tmp_path), patient)
    assert not (tmp_path / "summary.json").exists()


def test_a_teacher_that_only_fails_stops_the_run(dataset: Dataset, tmp_path: Path) -> None:
    def behave(n: int, prompt: str) -> Reply:
        return 422, {"error": {"message": "max_tokens is unknown"}}, {}

    with (
        stand_in(dataset, behave) as server,
        pytest.raises(EngineError, match=r"calls in a row failed.*max_tokens is unknown"),
    ):
        synthesize(dataset, str(tmp_path), config_for(server.url))


def test_a_changed_dataset_pays_only_for_prompts_that_changed(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = config_for(None, "synthesis.num_examples=2")
    out = str(tmp_path / "out")
    assert synthesize(dataset, out, config)["calls"] == 2
    other = write_dataset(tmp_path / "other", num_users=30, seed=5)
    assert synthesize(other, out, config)["calls_this_run"] == 2
    assert synthesize(dataset, out, config)["calls_this_run"] == 0


def test_a_local_model_on_vllm_is_a_teacher_like_any_other(
    dataset: Dataset, embedded_source: ModelSource, tmp_path: Path
) -> None:
    settings = [
        *("teacher.engine=vllm", f"teacher.model={embedded_source.path}"),
        *("teacher.max_tokens=48", "teacher.concurrency=8", "inference.max_model_len=768"),
        *("synthesis.num_examples=8", "teacher.prompt_price=1", "teacher.completion_price=1"),
    ]
    summary = synthesize(dataset, str(tmp_path), load_config(None, settings))
    again = synthesize(dataset, str(tmp_path), load_config(None, settings))
    assert (summary["calls"], summary["failed_calls"]) == (8, 0)
    assert summary["teachers"] == {f"{embedded_source.path} on vllm": 8}
    assert 0 < summary["completion_tokens"] <= 8 * 48
    tokens = summary["prompt_tokens"] + summary["completion_tokens"]
    assert summary["cost"] == pytest.approx(tokens / 1e6)
    assert again["calls_this_run"] == 0
    records = [
        r for f in list_journal_files(str(tmp_path / "journal")) for r in iter_entries(f) if r
    ]
    assert len({record.text for record in records}) > 1
