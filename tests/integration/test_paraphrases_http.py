"""``msrrec faithfulness`` with a teacher over HTTP that writes the paraphrases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from msrrec.config import InferenceConfig, load_config
from msrrec.engines.loopback import serve_on_loopback
from msrrec.evaluation.faithfulness import measure_faithfulness
from msrrec.evaluation.interventions import FaithfulnessResult
from msrrec.inference.recommender import Recommender
from msrrec.models import ModelSource
from msrrec.report.page import report_folder
from tests.support.chains import follow_chain, write_chains, write_model, write_shop
from tests.support.engine import FakeEngine, recommender

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


class Teacher:
    """Says a chain in other words; every answer of its first run but one is usable."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.answer)

    async def answer(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        self.asked.append(body)
        self.keys.add(request.headers.get("authorization"))
        line = body["messages"][0]["content"].splitlines()[1]
        words = json.loads(line.removeprefix("Text: ")).replace("mostly buys", "goes for")
        if len(self.asked) == 1:
            words = words.replace("(1)", "(2)")  # names another candidate
        message = {"role": "assistant", "content": f"<think>Hm.</think>{words}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        return {"model": "writer-2", "choices": [choice], "usage": usage}


@pytest.fixture
def teacher() -> Iterator[tuple[Teacher, str]]:
    made = Teacher()
    with serve_on_loopback(made.app) as url:
        yield made, f"{url}/v1"


def test_a_teachers_paraphrases_are_journaled_checked_and_paid_for_once(
    tmp_path: Path, teacher: tuple[Teacher, str]
) -> None:
    dataset, folder, model = write_shop(tmp_path), write_chains(tmp_path), write_model(tmp_path)
    served, url = teacher
    prompts: list[str] = []

    def build(source: ModelSource, config: InferenceConfig) -> Recommender:
        def answer(prompt: str, seed: int) -> str:
            prompts.append(prompt)
            return follow_chain(prompt, seed)

        return recommender(FakeEngine(answer), config)

    settings = ["evaluate.interventions=[paraphrase]", "evaluate.paraphraser=teacher"]
    config = load_config(None, [*settings, f"teacher.base_url={url}", "teacher.model=writer"])
    for _ in range(2):
        measure_faithfulness(
            dataset, folder, model, config, build=build, keys={"TEACHER_API_KEY": "secret"}
        )
    assert len(served.asked) == 7  # a whole chain each, and none of them twice
    assert served.keys == {"Bearer secret"}
    assert {body["model"] for body in served.asked} == {"writer"}

    result = FaithfulnessResult.load(folder)
    assert result.paraphraser == f"teacher: writer at {url.removeprefix('http://')}"
    assert result.paraphrases is not None
    assert result.paraphrases.model_dump() == {
        "num_asked": 7,
        "num_usable": 6,
        "flaws": {"titles": 1},
    }
    rows = {row.name: row for row in result.rows}
    assert rows["continued"].num_users == 7
    assert rows["paraphrase"].num_users == 6
    assert any("The user goes for Kitchen." in prompt for prompt in prompts)
    assert not any("chiefly purchases" in prompt for prompt in prompts)  # the program's words

    report_folder(folder)
    page = (Path(folder) / "report" / "index.html").read_text()
    assert "6 of 7 usable" in page
