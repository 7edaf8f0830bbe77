"""The measured systems, started as their users start them: the service, and plain vLLM.

Both get the same prompts, sampling, bound answers and maximum lengths, as many engines with the
same options of vLLM, and the same niceness. The peer's prompts are made and tokenized before any
time is taken, and nobody reads or fuses its outputs.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import aiohttp
import psutil

from bench.load import Seen
from bench.serving_answers import FLAT, flatten
from msrrec import loading
from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.vllm import ENVIRONMENT, engine_options
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource, locate_model
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import Side

SIDES: tuple[Side, Side] = ("user", "item")
_START_S = 240.0
_STOP_S = 60.0


class Question:
    """One request: the body that the service gets, and the two that the peer's engines get."""

    def __init__(self, query: Query, recommender: Recommender) -> None:
        self.query, self._recommender = query, recommender
        self.body = {
            "domain": query.domain,
            "history": query.history,
            "candidates": query.candidates,
        }

    @cached_property
    def sides(self) -> list[dict[str, Any]]:
        """A completion for each side."""
        return [_completion(self._recommender.build_request(self.query, side)) for side in SIDES]


class System(Protocol):
    """A running system."""

    name: str

    async def ask(
        self,
        client: aiohttp.ClientSession,
        question: Question,
        due: float,
        begin: float,
        *,
        stream: bool = False,
        deadline_s: float | None = None,
    ) -> Seen:
        """Ask once; ``due`` in seconds after ``begin`` by ``time.perf_counter``."""
        ...


class Service:
    """``msrrec serve``."""

    name = "ours"

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/recommend"

    async def ask(
        self,
        client: aiohttp.ClientSession,
        question: Question,
        due: float,
        begin: float,
        *,
        stream: bool = False,
        deadline_s: float | None = None,
    ) -> Seen:
        body = {**question.body, "stream": stream}
        if deadline_s is not None:
            body["deadline_ms"] = max(1, round(1000 * deadline_s))
        first, status, answer = None, 0, {}
        try:
            async with client.post(self._url, json=body) as response:
                status = response.status
                if not stream or status != 200:
                    answer = await response.json()
                else:
                    first, answer = await _read_events(response, begin)
        except aiohttp.ClientError:
            status = 0
        done = time.perf_counter() - begin
        wrong = status == 200 and not is_answer(answer, question.query)
        return Seen(due, done, status, first, wrong, answer.get("item"))


class PlainVllm:
    """Two ``vllm serve``.

    Args:
        urls: The two servers.
        split: ``request``: both sides of a request go to the server with the fewest requests under
            way, which computes once what their prompts begin with; ``side``: each server answers
            one side of all requests.
    """

    name = "peer"

    def __init__(self, urls: Sequence[str], split: str) -> None:
        self._urls = [f"{url}/v1/completions" for url in urls]
        self._split = split
        self._under_way = dict.fromkeys(self._urls, 0)

    async def ask(
        self,
        client: aiohttp.ClientSession,
        question: Question,
        due: float,
        begin: float,
        *,
        stream: bool = False,
        deadline_s: float | None = None,
    ) -> Seen:
        least = min(self._urls, key=self._under_way.__getitem__)
        urls = self._urls if self._split == "side" else [least, least]
        calls = (
            self._complete(client, url, {**body, "stream": stream}, begin)
            for url, body in zip(urls, question.sides, strict=True)
        )
        self._under_way[least] += 1
        try:
            found = await asyncio.gather(*calls)
        finally:
            self._under_way[least] -= 1
        done = time.perf_counter() - begin
        status = next((status for status, _ in found if status != 200), 200)
        firsts = [first for _, first in found if first is not None]
        return Seen(due, done, status, min(firsts, default=None))

    async def _complete(
        self, client: aiohttp.ClientSession, url: str, body: dict[str, Any], begin: float
    ) -> tuple[int, float | None]:
        first = None
        try:
            async with client.post(url, json=body) as response:
                if not body["stream"]:
                    await response.json()
                else:
                    async for line in response.content:
                        if first is None and _has_text(line):
                            first = time.perf_counter() - begin
                return response.status, first
        except aiohttp.ClientError:
            return 0, first

    async def generate(self, client: aiohttp.ClientSession, question: Question) -> list[Generation]:
        """Both sides' outputs with their tokens, for checks."""
        found = []
        for url, body in zip(self._urls, question.sides, strict=True):
            async with client.post(url, json={**body, "return_token_ids": True}) as response:
                choice = (await response.json())["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            ended = choice["finish_reason"] == "stop"
            cut = len(ids) - ended
            end = logprobs[-1] if ended else None
            finish = choice["finish_reason"]
            found.append(Generation(tuple(ids[:cut]), tuple(logprobs[:cut]), finish, end))
        return found


class Questions:
    """Makes the same request for both systems."""

    def __init__(self, model: str, config: InferenceConfig) -> None:
        source = locate_model(model)
        tokenizer = loading.load_tokenizer(source)
        options = plain_options(source, config)
        self.recommender = Recommender(
            tokenizer,
            max_model_len=int(options["max_model_len"]),
            form=source.form,
            config=config,
        )

    def make(self, history: Sequence[str], candidates: Sequence[str], domain: str) -> Question:
        """A question about titles."""
        query = Query("request", domain, tuple(history), tuple(candidates))
        return Question(query, self.recommender)

    def decide(self, question: Question, found: Sequence[Generation]) -> str | None:
        """The title that both sides' outputs recommend together."""
        pairs = zip(SIDES, found, strict=True)
        outputs = {side: self.recommender.read(question.query, side, one) for side, one in pairs}
        index = self.recommender.decide("fused", outputs).index
        return None if index is None else question.query.candidates[index]


def plain_options(source: ModelSource, config: InferenceConfig) -> dict[str, Any]:
    """The options of vLLM that the service's engines have.

    vLLM's own metrics are on, which is its default, as ``serve.engine_metrics`` is ours.
    """
    model_config = loading.load_config(source).get_text_config()
    options = engine_options(source, config, model_config, on_gpu=False)
    del options["disable_log_stats"]
    return options


def _completion(request: GenerationRequest) -> dict[str, Any]:
    """The body of an OpenAI completion for what the service asks its engine."""
    body: dict[str, Any] = {
        "model": "peer",
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "logprobs": 0,  # of the sampled tokens, which fusion needs
    }
    if request.choice is not None:
        body["vllm_xargs"] = {FLAT: flatten(request.choice)}
    return body


def _has_text(line: bytes) -> bool:
    """Whether a line of a completion's stream brings any text."""
    return line.startswith(b"data: {") and bool(json.loads(line[6:])["choices"][0]["text"])


def is_answer(answer: Mapping[str, Any], query: Query) -> bool:
    """Whether an answer names what its own request offered, at its place; or none, as it may."""
    index, item = answer.get("index"), answer.get("item")
    if index is None:
        return item is None and "sides" in answer
    return index < len(query.candidates) and query.candidates[index] == item


async def _read_events(
    response: aiohttp.ClientResponse, begin: float
) -> tuple[float | None, dict[str, Any]]:
    """When the first word came, and the last event's data."""
    first, data = None, b"{}"
    async for line in response.content:
        if line.startswith(b"data: "):
            data = line[6:]
        elif first is None and line.startswith(b"event: delta"):
            first = time.perf_counter() - begin
    return first, json.loads(data)


@contextmanager
def running_service(
    model: str, settings: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[tuple[Service, "Tree"]]:
    """The service within the block; what ``environment`` says is added to this process's."""
    port = _free_port()
    command = ["-m", "msrrec", "serve", "--model", model, "--port", str(port), *settings]
    with _started([command], log, environment) as tree:
        url = f"http://127.0.0.1:{port}"
        _wait_for(tree, f"{url}/readyz", log)
        yield Service(url), tree


@contextmanager
def running_peer(
    model: str, config: InferenceConfig, split: str, log: Path
) -> Iterator[tuple[PlainVllm, "Tree"]]:
    """Two plain servers of vLLM within the block."""
    ports = [_free_port() for _ in SIDES]
    options = to_flags(plain_options(locate_model(model), config))
    commands = [
        ["-m", "vllm.entrypoints.openai.api_server", *options, "--port", str(port)]
        for port in ports
    ]
    with _started(commands, log, ENVIRONMENT) as tree:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for url in urls:
            _wait_for(tree, f"{url}/health", log)
        yield PlainVllm(urls, split), tree


def to_flags(options: Mapping[str, Any]) -> list[str]:
    """Arguments of ``vllm serve`` for options under vLLM's own names."""
    named = {key: value for key, value in options.items() if value is not None}
    processors = named.pop("logits_processors", None)
    flags = ["--served-model-name", "peer", "--host", "127.0.0.1"]
    flags += ["--disable-uvicorn-access-log", "--generation-config", "vllm"]
    for key, value in named.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    if processors:
        flags += ["--logits-processors", "bench.serving_answers:FlatAnswers"]
    return flags


class Tree:
    """The processes of a system, and what they cost."""

    def __init__(self, roots: Sequence[subprocess.Popen[bytes]]) -> None:
        self.roots = roots

    def processes(self) -> list[psutil.Process]:
        """All that are alive."""
        found = {}
        for root in self.roots:
            parent = psutil.Process(root.pid)
            for one in (parent, *parent.children(recursive=True)):
                found[one.pid] = one
        return list(found.values())

    def cpu_s(self) -> dict[int, float]:
        """Processor seconds of each process so far."""
        return dict(self._each(lambda one: sum(one.cpu_times()[:2])))

    def pss_mib(self) -> float:
        """Memory of all, with shared pages divided by who shares them."""
        sizes = self._each(lambda one: one.memory_full_info().pss)
        return float(sum(size for _, size in sizes)) / 2**20

    def niceness(self) -> int:
        """The highest niceness of any process."""
        return max(nice for _, nice in self._each(lambda one: one.nice()))

    def names(self) -> dict[int, str]:
        """What each process is called."""
        return dict(self._each(_describe))

    def _each(self, measure: Any) -> Iterator[tuple[int, Any]]:
        for one in self.processes():
            try:
                yield one.pid, measure(one)
            except psutil.Error:
                continue


def _describe(process: psutil.Process) -> str:
    line = " ".join(process.cmdline()) or process.name()
    return line.replace(sys.executable, "python")[:60]


@contextmanager
def _started(
    commands: Sequence[Sequence[str]], log: Path, environment: Mapping[str, str]
) -> Iterator[Tree]:
    processes, file = [], _open_log(log)
    try:
        for command in commands:
            one = subprocess.Popen(
                [sys.executable, *command],
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                cwd=Path(__file__).parents[1],
            )
            processes.append(one)
        yield Tree(processes)
    finally:
        for one in processes:
            one.send_signal(signal.SIGINT)
        for one in processes:
            try:
                one.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                one.kill()
        file.close()


def _open_log(log: Path) -> IO[bytes]:
    return log.open("ab")


def _wait_for(tree: Tree, url: str, log: Path) -> None:
    import httpx

    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if any(root.poll() is not None for root in tree.roots):
            break
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{url}: no answer; see {log}:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
