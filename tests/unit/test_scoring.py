import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from msrrec.config import InferenceConfig
from msrrec.engines.base import MAX_NEXT_IDS, Generation, GenerationRequest
from msrrec.inference.scoring import Branch, find_branches
from msrrec.reasoning.encoding import Query
from tests.support.engine import CharTokenizer, FakeEngine, answer_by_seed, recommender


class NumberTokenizer(CharTokenizer):
    """Whole numbers are one token each, as in Llama 3."""

    def encode(self, text: str, **_: Any) -> list[int]:
        parts = re.findall(r"\d+|\D", text)
        return [200_000 + int(p) if p.isdigit() else ord(p) for p in parts]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(i) if i < 200_000 else str(i - 200_000) for i in ids)


class NumberEngine(FakeEngine):
    """Number n is n times as likely as 1; keeps how many tokens it was asked for at once."""

    def __init__(self) -> None:
        super().__init__(answer_by_seed)
        self.tokenizer = NumberTokenizer()
        self.asked: list[int] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        if not requests or not requests[0].next_ids:
            return super().generate(requests)
        self.asked += [len(request.next_ids) for request in requests]
        return [
            Generation(
                (0,), (-1.0,), "length", None, tuple(math.log(i - 200_000) for i in one.next_ids)
            )
            for one in requests
        ]


def test_answers_that_differ_in_one_token_have_one_branch() -> None:
    assert find_branches([(40, 1, 41, 9), (40, 2, 41, 8), (40, 3, 41, 9)]) == [
        Branch((40,), {1: (0,), 2: (1,), 3: (2,)})
    ]


def test_a_token_that_some_answers_share_has_a_branch_of_its_own() -> None:
    answers = [(40, 1, 41), (40, 2, 41), (40, 1, 0, 41), (40, 1, 1, 41)]
    assert find_branches(answers) == [
        Branch((40,), {1: (0, 2, 3), 2: (1,)}),
        Branch((40, 1), {41: (0,), 0: (2,), 1: (3,)}),
    ]


@pytest.mark.parametrize("num_candidates", [2, 20, 300])
def test_numbers_of_one_token_are_ranked_by_one_new_token(num_candidates: int) -> None:
    engine = NumberEngine()
    config = InferenceConfig(candidate_logprobs=True)
    titles = tuple(f"Thing {chr(0x4E00 + n)}" for n in range(num_candidates))
    engine.max_model_len = 100_000
    query = Query("a", "Home", ("Pan",), titles)
    (found,) = recommender(engine, config).generate([query], ("user",))
    values = found["user"].candidate_logprobs
    total = num_candidates * (num_candidates + 1) / 2
    expected = [math.log((n + 1) / total) for n in range(num_candidates)]
    assert values == pytest.approx(expected)
    assert engine.asked == [
        min(MAX_NEXT_IDS, num_candidates - begin)
        for begin in range(0, num_candidates, MAX_NEXT_IDS)
    ]
