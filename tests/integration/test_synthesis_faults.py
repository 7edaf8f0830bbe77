"""Every way to fail that HTTP and JSON allow, and kills: nothing lost, nothing paid for twice.

The teacher's own log is the witness.
"""

import asyncio
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.stand_in import StandIn, completion, http_reply, running
from msrrec import schema, storage
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.embedded.offline_teacher import OfflineTeacher
from msrrec.errors import DataError
from msrrec.synthesis.synthesize import synthesize
from tests.support.dataset import write_dataset

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

NUM_EXAMPLES = 240
IN_FLIGHT = 8
TIMEOUT_S = 10.0  # only what keeps silent is to reach it, however busy the machine

Fault = bytes | float
"""Raw bytes to answer with, or seconds to keep silent."""


def body_of(value: Any) -> bytes:
    return http_reply(200, json.dumps(value).encode())


def with_message(message: Any, finish_reason: Any = "stop") -> bytes:
    return body_of({"choices": [{"message": message, "finish_reason": finish_reason}]})


def error(status: int, **headers: str) -> bytes:
    return http_reply(status, b'{"error": {"message": "not now"}}', **headers)


FAULTS: dict[str, Fault] = {
    "silence": TIMEOUT_S + 0.3,
    "hang up": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-",
    "half a body": http_reply(200, b'{"choices": [', connection="close", content_length="999"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\nconnection: close\r\n\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
    b"connection: close\r\n\r\nzz\r\n",
    "no gzip": http_reply(200, b"plain", content_encoding="gzip", connection="close"),
    "408": error(408),
    "409": error(409),
    "425": error(425),
    "429": error(429),
    "429, wait": error(429, retry_after="0.05"),
    "429, wait until": error(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429, wait nonsense": error(429, retry_after="soon"),
    "500": error(500),
    "502 in HTML": http_reply(502, b"<html>Bad gateway</html>", content_type="text/html"),
    "503": error(503, retry_after="0.1"),
    "504": http_reply(504, b""),
    "529": error(529),
    "error as text": http_reply(500, b'{"error": "oops"}'),
    "error as list": http_reply(500, b'[{"error": 1}]'),
    "error in a 200": body_of({"error": {"message": "overloaded", "code": 502}}),
    "empty": http_reply(200, b""),
    "no JSON": http_reply(200, b"{not json"),
    "HTML": http_reply(200, b"<html>Welcome</html>", content_type="text/html"),
    "no UTF-8": http_reply(200, b'{"choices": "\xff\xfe"}'),
    "deep": http_reply(200, b"[" * 200_000),
    "null": body_of(None),
    "a string": body_of("a string"),
    "a number": body_of(3.5),
    "a list": body_of([]),
    "an empty object": body_of({}),
    "no choices": body_of({"choices": []}),
    "null choices": body_of({"choices": None}),
    "choices as object": body_of({"choices": {"0": 1}}),
    "choices as text": body_of({"choices": "abc"}),
    "a null choice": body_of({"choices": [None]}),
    "an empty choice": body_of({"choices": [{}]}),
    "a null message": with_message(None),
    "a text message": with_message("text"),
    "a list message": with_message([1]),
    "a number as content": with_message({"content": 5}),
    "an object as content": with_message({"content": {"text": "x"}}),
    "a list as content": with_message({"content": ["x"]}),
    "an error half way": with_message({"content": "Step 1"}, "error"),
}


def odd_but_whole(number: int, text: str) -> bytes:
    """A good answer in one of the shapes that servers give it."""
    body = completion(text)
    message = body["choices"][0]["message"]
    changes: list[Callable[[], Any]] = [
        lambda: None,
        lambda: body.update(usage=None),
        lambda: body.update(usage={"prompt_tokens": "7", "completion_tokens": -1, "cost": "free"}),
        lambda: body.update(usage=[7, 5], model=None, id=7, created="now"),
        lambda: body["choices"][0].update(finish_reason=None, logprobs=[]),
        lambda: message.update(reasoning_content={"thought": 1}, refusal=None),
        lambda: message.update(reasoning_content="half a pair \ud83d", tool_calls=[]),
        lambda: message.update(content=[{"type": "text", "text": text}]),
    ]
    changes[number % len(changes)]()
    return body_of(body)


class Faulty:
    """Answers as the offline teacher does, and fails a share of calls, each way in turn.

    It keeps silent only the first time round, as that is waited for.
    """

    def __init__(
        self, dataset: Dataset, share: float, latency_s: float, *, is_odd: bool = True
    ) -> None:
        self._teacher, self._share, self._latency_s = (
            OfflineTeacher(dataset.items.values(), dataset.examples("train")),
            share,
            latency_s,
        )
        self._is_odd = is_odd
        self._random = random.Random(7)
        again = {name: fault for name, fault in FAULTS.items() if isinstance(fault, bytes)}
        self._ways = itertools.chain(FAULTS.items(), itertools.cycle(again.items()))

    async def respond(self, number: int, prompt: str) -> tuple[bytes, str]:
        await asyncio.sleep(self._latency_s)
        if self._random.random() < self._share:
            name, fault = next(self._ways)
            if isinstance(fault, bytes):
                return fault, name
            await asyncio.sleep(fault)
            return b"", name
        answer = self._teacher.answer(prompt)
        assert answer is not None
        return odd_but_whole(number if self._is_odd else 0, answer[0]), "good"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), NUM_EXAMPLES)


def settings(url: str) -> list[str]:
    return [
        *(f"teacher.base_url={url}", "teacher.model=stand-in"),
        *(f"teacher.concurrency={IN_FLIGHT}", f"teacher.timeout_s={TIMEOUT_S}"),
        "teacher.max_retries=9",
    ]


def config_for(url: str, *overrides: str) -> RunConfig:
    return load_config(None, [*settings(url), *overrides])


def kept_in(out: Path) -> list[dict[str, Any]]:
    """The paths, without the server, its name for the model, the time and the line of each."""
    table = storage.read_table(str(out / "paths.parquet"), schema.PATHS)
    rows: list[dict[str, Any]] = table.drop_columns(
        ["served_model", "teacher", "answered_at_s", "journal"]
    ).to_pylist()
    return rows


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Dataset, ray_local: None, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The paths of a run in which nothing fails."""
    out = tmp_path_factory.mktemp("undisturbed")
    with running(StandIn(Faulty(dataset, 0.0, 0.0).respond)) as server:
        synthesize(dataset, str(out), config_for(server.url))
    return kept_in(out)


def good_answers(server: StandIn) -> Counter[str]:
    return Counter(call.prompt for call in server.calls if call.kind == "good")


def test_a_fifth_of_the_calls_fails_in_every_way_and_the_paths_are_the_same(
    dataset: Dataset, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    with running(StandIn(Faulty(dataset, 0.2, 0.01).respond)) as server:
        summary = synthesize(dataset, str(tmp_path), config_for(server.url))
    ways = Counter(call.kind for call in server.calls)
    assert ways.keys() == FAULTS.keys() | {"good"}
    assert set(good_answers(server).values()) == {1}
    assert (summary["calls"], summary["failed_calls"]) == (NUM_EXAMPLES, 0)
    assert summary["retries"] == len(server.calls) - NUM_EXAMPLES
    assert kept_in(tmp_path) == undisturbed
    assert len(undisturbed) > NUM_EXAMPLES / 3


DRIVER = """
import sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR")
from msrrec.config import load_config
from msrrec.data.dataset import Dataset
from msrrec.synthesis.synthesize import synthesize
synthesize(Dataset.load(sys.argv[2]), sys.argv[3], load_config(None, sys.argv[4:]))
"""


def start_driver(dataset: Dataset, out: Path, url: str) -> subprocess.Popen[bytes]:
    import ray

    address = ray.get_runtime_context().gcs_address
    arguments = [address, dataset.path, str(out), *settings(url)]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])


def kill_actor() -> bool:
    """Whether there was one; a driver that has just begun has none yet."""
    for child in psutil.Process().children(recursive=True):
        if "TeacherActor" in "".join(command_of(child)):
            child.kill()
            return True
    return False


def command_of(process: psutil.Process) -> list[str]:
    """The words of a command line; none of a process that has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_five_kills_lose_no_answer_and_repeat_at_most_those_in_flight(
    dataset: Dataset, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    rng = random.Random()
    moments = sorted(rng.sample(range(10, NUM_EXAMPLES - 30), 5))
    kills = zip(moments, ["driver", "actor", "teacher", "actor", "driver"], strict=True)
    server = StandIn(Faulty(dataset, 0.0, 0.15).respond)
    with ExitStack() as life:
        life.enter_context(running(server))
        driver = start_driver(dataset, tmp_path, server.url)
        for moment, victim in kills:
            wait_until(lambda at=moment: good_answers(server).total() >= at, driver)
            wait_until(lambda: server.in_flight > 0, driver)
            if victim == "driver":
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                assert not (tmp_path / "summary.json").exists()
                driver = start_driver(dataset, tmp_path, server.url)
            elif victim == "actor":
                wait_until(kill_actor, driver)
            else:
                life.close()
                life.enter_context(running(server, server.port))
        assert driver.wait(900) == 0
    answered = good_answers(server)
    assert len(answered) == NUM_EXAMPLES
    assert answered.total() - NUM_EXAMPLES <= len(moments) * IN_FLIGHT, moments
    assert kept_in(tmp_path) == undisturbed
    # and what is there is enough for a run that can reach nobody
    summary = synthesize(dataset, str(tmp_path), config_for("http://127.0.0.1:9/v1"))
    assert summary["calls_this_run"] == 0


def wait_until(happens: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 900  # a driver starts slowly where other programs want the cores
    while not happens():
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def test_storage_that_fails_stops_the_run_with_one_sentence(
    dataset: Dataset, tmp_path: Path
) -> None:
    faulty = Faulty(dataset, 0.0, 0.02)

    async def respond(number: int, prompt: str) -> tuple[bytes, str]:
        if number == 40:
            (tmp_path / "journal").rename(tmp_path / "elsewhere")
        return await faulty.respond(number, prompt)

    with (
        running(StandIn(respond)) as server,
        pytest.raises(DataError, match="can't be written") as caught,
    ):
        synthesize(dataset, str(tmp_path), config_for(server.url))
    assert "\n" not in str(caught.value)
    assert len(server.calls) <= 40 + 3 * IN_FLIGHT


def test_another_teacher_takes_over_where_one_refuses(dataset: Dataset, tmp_path: Path) -> None:
    good, rate_limited = Faulty(dataset, 0.0, 0.01), Faulty(dataset, 0.0, 0.01)

    async def refuse(number: int, prompt: str) -> tuple[bytes, str]:
        if number > 30:
            return error(402), "no balance"
        return await good.respond(number, prompt)

    with running(StandIn(refuse)) as first, running(StandIn(rate_limited.respond)) as second:
        other = f"[{{base_url: '{second.url}', model: other, weight: 2}}]"
        config = config_for(first.url, f"teacher.others={other}")
        summary = synthesize(dataset, str(tmp_path), config)
    assert summary["calls"] == NUM_EXAMPLES
    calls = {name.split()[0]: count for name, count in summary["teachers"].items()}
    assert calls == {"stand-in": 30, "other": NUM_EXAMPLES - 30}
    # two thirds of the calls were the other's from the first on
    assert 60 - IN_FLIGHT <= len(second.calls) - (NUM_EXAMPLES - 90) <= 60 + IN_FLIGHT


@pytest.mark.parametrize(
    ("cap", "calls"),
    [
        ("synthesis.max_calls=50", 50),
        ("synthesis.max_total_tokens=2000", None),
        ("synthesis.max_cost=0.002", None),
    ],
)
def test_a_cap_stops_cleanly_and_a_larger_one_goes_on(
    dataset: Dataset, tmp_path: Path, cap: str, calls: int | None
) -> None:
    prices = ("teacher.prompt_price=1", "teacher.completion_price=2", "teacher.max_tokens=16")
    with running(StandIn(Faulty(dataset, 0.0, 0.005, is_odd=False).respond)) as server:
        summary = synthesize(dataset, str(tmp_path), config_for(server.url, *prices, cap))
        setting = cap.partition("=")[0].partition(".")[2]
        assert summary["stopped_by"] == setting
        assert summary["kept"] == len(kept_in(tmp_path)) > 0
        made = len(server.calls)
        assert summary["calls"] == made
        assert calls in (None, made)
        assert summary["prompt_tokens"] + summary["completion_tokens"] == 12 * made
        assert summary["cost"] == pytest.approx(made * (7 * 1 + 5 * 2) / 1e6)
        limit = float(cap.partition("=")[2])
        spent = {"max_calls": made, "max_total_tokens": 12 * made, "max_cost": summary["cost"]}
        assert limit / 2 < spent[setting] <= limit
        more = config_for(server.url, *prices, cap.partition("=")[0] + "=100000")
        summary = synthesize(dataset, str(tmp_path), more)
    assert (summary["stopped_by"], summary["calls"]) == (None, NUM_EXAMPLES)
    assert len(server.calls) == NUM_EXAMPLES
