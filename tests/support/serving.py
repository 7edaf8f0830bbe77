"""A service on Ray Serve with engines of the tests' own, and load on it."""

import asyncio
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import EngineError
from msrrec.models import TypicalCustomer, locate_model
from tests.support.processes import wait_until

PER_SECOND = 10


class FakeEngine:
    """Names the second candidate, three tokens at a time; dies where a title tells it to."""

    def __init__(self, folder: str, crash_mark: str) -> None:
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.crash_mark = Path(crash_mark)
        self.crash_mark.with_name(f"{os.getpid()}.pid").touch()
        self.is_dead = False

    async def generate(self, request: GenerationRequest) -> Generation:
        return [piece async for piece in self.stream(request)][-1]

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        if self.is_dead:
            raise EngineError("the engine died")
        if request.next_ids:
            scores = tuple(-1.0 - n for n in range(len(request.next_ids)))
            yield Generation((0,), (-1.0,), "length", None, scores)
            return
        prompt = self.tokenizer.decode(list(request.prompt_ids), skip_special_tokens=False)
        title = prompt.split("(2) ")[1].split("\n")[0]
        text = f"Step 1. It is {title}.\n[reasoning_end]\n(2) {title}"
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        logprob = -0.5 if "from the side of the user" in prompt else -1.0
        self.crash_mark.with_name(f"{os.getpid()}.busy").touch()
        for n in range(0, len(ids), 3):
            await asyncio.sleep(0.02 if "slow" in prompt else 0)
            while n and "held" in prompt and not self.crash_mark.with_name("go on").exists():
                await asyncio.sleep(0.01)
            if "poison" in prompt and self._is_first_crash():
                self.is_dead = True
                raise EngineError("the engine died")
            piece = ids[n : n + 3]
            yield Generation(piece, (logprob,) * len(piece), "")
        yield Generation(ids, (logprob,) * len(ids), "stop")

    def _is_first_crash(self) -> bool:
        """The mark is made once, whichever process comes first."""
        try:
            self.crash_mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def check_health(self) -> None:
        if self.is_dead:
            raise EngineError("the engine died")


def build(crash_mark: str, example: TypicalCustomer, blueprint: Any) -> Any:
    """The application of a version with such engines."""
    from serve import app

    args = blueprint.args
    source = replace(locate_model(args.model_dir), examples=(example,))
    app.check_room(args)
    return app.assemble(blueprint, source, partial(FakeEngine, args.model_dir, crash_mark))


@dataclass
class Load:
    """Requests at a steady rate, every second one a stream, until it is stopped.

    Attributes:
        answers: For each request its number, status and the name of the model that answered.
    """

    url: str
    key: str
    answers: list[tuple[int, int, str]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self._thread.join()

    def gather(self, number: int) -> Counter[str]:
        """Who answers that many of the requests that begin from now on."""
        begin = max((n for n, _, _ in self.answers), default=0) + PER_SECOND  # those under way
        wait_until(lambda: sum(n >= begin for n, _, _ in self.answers) >= number)
        return Counter(name for n, _, name in list(self.answers) if n >= begin)

    async def _drive(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=900, limits=limits
        ) as client:
            tasks = []
            for number in itertools.count():
                if self.is_over.is_set():
                    break
                tasks.append(asyncio.create_task(self._ask(client, number)))
                await asyncio.sleep(1 / PER_SECOND)
            await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"history": [f"Camera {number}"], "candidates": ["Lens", "Rope"]}
        response = await client.post("/v1/recommend", json={**body, "stream": number % 2 == 1})
        answer = response.text.strip().rpartition("data: ")[2]
        name = json.loads(answer).get("model", {}).get("name", answer)
        self.answers.append((number, response.status_code, name))
