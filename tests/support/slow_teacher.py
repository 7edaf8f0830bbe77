"""A teacher over HTTP that answers as the offline one does, after a fixed time, and counts."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

from bench.stand_in import StandIn, completion, http_reply
from msrrec.data.dataset import Dataset
from msrrec.embedded.offline_teacher import OfflineTeacher


class SlowTeacher:
    """The stand-in's answers; every prompt gets the same answer each time.

    Attributes:
        server: To be run with ``bench.stand_in.running``.
        latency_s: Seconds until an answer.
    """

    def __init__(self, load: Callable[[], Dataset], latency_s: float = 0.0) -> None:
        """Prepare.

        Args:
            load: Loads the dataset that it is asked about, at the first question.
            latency_s: Seconds until an answer.
        """
        self.latency_s = latency_s
        self.server = StandIn(self._respond)
        self._load = load
        self._teacher: OfflineTeacher | None = None

    def answered(self) -> Counter[str]:
        """How often each prompt was answered."""
        return Counter(call.prompt for call in self.server.calls if call.kind == "answer")

    async def _respond(self, number: int, prompt: str) -> tuple[bytes, str]:
        if self._teacher is None:
            dataset = self._load()
            self._teacher = OfflineTeacher(dataset.items.values(), dataset.examples("train"))
        await asyncio.sleep(self.latency_s)
        found = self._teacher.answer(prompt)
        assert found is not None
        body = completion(found[0])
        body["choices"][0]["finish_reason"] = found[1]
        return http_reply(200, json.dumps(body).encode()), "answer"
