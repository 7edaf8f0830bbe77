"""Clients of the service, and the load balancer before its proxies.

The balancer does what those of clouds do: it asks every proxy for its health, gives a request to
the next living one, and, where a connection breaks or its proxy is out, to another one. A client
may do that with this service because answers are seeded.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

ASK = "/v1/recommend"
MAX_TRIES = 3
PATIENCE_S = 75.0
"""Longer than the service's own deadline."""
_LOOK_S, _LOOK_TIMEOUT_S, _MAX_FAILED_LOOKS = 1.0, 2.0, 3

Kind = Literal["answered", "refused", "failed"]


@dataclass
class Seen:
    """What one client saw.

    Attributes:
        body: What it asked.
        came: When it asked, in seconds of the steady clock.
        kind: Whether it got an answer, a refusal that says when to come back, or neither.
        seconds: How long that took.
        tries: Number of proxies that it asked.
        answer: The recommendation.
        why: What was wrong, if anything was.
        is_wrong: Whether the answer is not that of a calm service.
        is_repeated: Whether text came twice, or more than one result.
        is_cut: Whether a stream ended without a result and without an error.
    """

    body: Mapping[str, Any]
    came: float
    kind: Kind = "failed"
    seconds: float = 0.0
    tries: int = 0
    answer: Mapping[str, Any] | None = None
    why: str = ""
    is_wrong: bool = False
    is_repeated: bool = False
    is_cut: bool = False


class Balancer:
    """The living proxies."""

    def __init__(
        self,
        urls: Callable[[], Sequence[str]],
        key: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.urls, self.key = urls, key
        self.well: set[str] = set()
        self._failed: dict[str, int] = {}
        self._asked: dict[str, set[asyncio.Task[Any]]] = {}
        self._turn = 0
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        timeout = httpx.Timeout(PATIENCE_S, connect=2)
        self.http = httpx.AsyncClient(timeout=timeout, limits=limits, transport=transport)

    def pick(self, tried: Sequence[str]) -> str:
        """The next proxy: one that lives and was not tried, where there is such a one."""
        self._turn += 1
        urls = list(self.urls())
        living = [url for url in urls if url in self.well] or urls
        fresh = [url for url in living if url not in tried] or living
        return fresh[self._turn % len(fresh)]

    async def watch(self) -> None:
        """Look at all proxies for ever; end the requests of one that is found dead."""
        while True:
            await asyncio.gather(*map(self._look, self.urls()), asyncio.sleep(_LOOK_S))

    async def _look(self, url: str) -> None:
        try:
            found = await self.http.get(f"{url}/-/healthz", timeout=_LOOK_TIMEOUT_S)
            is_well = found.status_code == 200
        except httpx.HTTPError:
            is_well = False
        self._failed[url] = 0 if is_well else self._failed.get(url, 0) + 1
        if is_well:
            self.well.add(url)
        elif self._failed[url] >= _MAX_FAILED_LOOKS:
            self.well.discard(url)
            for task in self._asked.pop(url, set()):
                task.cancel()

    @contextlib.asynccontextmanager
    async def _through(self, url: str) -> AsyncIterator[None]:
        """Turn the end of a proxy at work into a broken connection."""
        task = asyncio.current_task()
        assert task is not None
        self._asked.setdefault(url, set()).add(task)
        try:
            yield
        except asyncio.CancelledError:
            if url in self.well:
                raise
            task.uncancel()
            raise httpx.ReadError("the proxy is out") from None
        finally:
            self._asked.get(url, set()).discard(task)

    async def ask(self, body: Mapping[str, Any]) -> Seen:
        """Ask, and ask another proxy where a connection breaks."""
        seen, tried = Seen(body, time.monotonic()), []
        while seen.tries < MAX_TRIES:
            url = self.pick(tried)
            tried.append(url)
            seen.tries += 1
            try:
                async with self._through(url):
                    await self._ask(url, seen)
                break
            except httpx.HTTPError as error:
                seen.why = f"{type(error).__name__} {error}"
        seen.seconds = time.monotonic() - seen.came
        return seen

    async def _ask(self, url: str, seen: Seen) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.http.stream("POST", url + ASK, json=seen.body, headers=headers) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                says = response.status_code in (429, 503) and "retry-after" in response.headers
                seen.kind = "refused" if says else "failed"
                seen.why = f"{response.status_code} {text[:300]}"
            elif seen.body.get("stream"):
                await _follow(response, seen)
            else:
                seen.answer = json.loads(await response.aread())
                seen.kind, seen.why = "answered", ""


async def _follow(response: httpx.Response, seen: Seen) -> None:
    """Read a stream of events to its end."""
    name, ends, texts = "", 0, {}
    seen.why = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = json.loads(line.removeprefix("data: "))
            if name == "delta":
                so_far = texts.get(data["side"], "")
                if data["offset"] != len(so_far) or ends:
                    seen.is_repeated, seen.why = True, f"delta at {data['offset']}: {so_far!r}"
                texts[data["side"]] = so_far[: data["offset"]] + data["text"]
            else:
                ends += 1
                seen.is_repeated |= ends > 1
                if name == "result":
                    seen.answer, seen.kind = data, "answered"
                else:
                    seen.why = f"error event {data}"
    if not ends:
        seen.is_cut, seen.why = True, "the stream ended without result and error"
    elif seen.answer is not None:
        _check_texts(texts, seen)


def _check_texts(texts: Mapping[str, str], seen: Seen) -> None:
    """Whether the text of each side that came in pieces is what the result says of it."""
    assert seen.answer is not None
    for side, text in texts.items():
        reasoning = seen.answer["sides"][side]["reasoning"] or ""
        if not text.lstrip().startswith(reasoning):  # results have no space at their ends
            seen.is_wrong, seen.why = True, f"{side}: {text!r} is not {reasoning!r}"


@dataclass
class Expected:
    """The answers of a calm service, by request."""

    answers: dict[str, Any] = field(default_factory=dict)

    def learn(self, seen: Seen) -> None:
        """Keep an answer.

        Raises:
            RuntimeError: If there is none.
        """
        if seen.answer is None:
            raise RuntimeError(f"a calm service gave no answer to {seen.body}: {seen.why}")
        self.answers[_name(seen.body)] = _essence(seen.answer)

    def check(self, seen: Seen) -> None:
        """Mark an answer that is not the one that was learned, or names what was not asked for."""
        if seen.answer is None:
            return
        item, expected = seen.answer["item"], self.answers.get(_name(seen.body))
        if "candidates" in seen.body and item not in seen.body["candidates"]:
            seen.is_wrong, seen.why = True, f"{item!r} is no candidate"
        elif expected is not None and _essence(seen.answer) != expected:
            seen.is_wrong, seen.why = True, f"{_essence(seen.answer)} is not {expected}"


def _name(body: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in body.items() if key != "stream"})


def _essence(answer: Mapping[str, Any]) -> Any:
    """What is equal in two answers to one request."""
    sides = {
        name: [side["item"], side["reasoning"], side["num_tokens"]]
        for name, side in answer["sides"].items()
    }
    ranking = [row["item"] for row in answer["ranking"]]
    return json.loads(json.dumps([answer["item"], answer["agreement"], ranking, sides]))
