"""Prompts and answers that several threads encode at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msrrec.config import PromptConfig
from msrrec.reasoning.encoding import Query, encode_choice, fit_prompt
from tests.support.engine import CharTokenizer


class Switched(CharTokenizer):
    """Keeps whether special tokens count as its own state, as tokenizers of transformers do."""

    splits = False

    def encode(self, text: str, split_special_tokens: bool = False, **_: Any) -> list[int]:
        self.splits = split_special_tokens
        time.sleep(0.0001)  # other threads go on here
        return [int(self.splits), *super().encode(text)]


def test_threads_that_encode_at_once_do_not_change_what_counts_as_a_special_token() -> None:
    tokenizer, form = Switched(), PromptConfig()
    query = Query("u", "Home", ("Red Lamp",), ("Oak Table", "Wool Hat"))

    def encode(_: int) -> Any:
        choice = encode_choice(tokenizer, query.candidates, form)
        return choice, fit_prompt(tokenizer, "user", query, form, 4096)

    alone = encode(0)
    with ThreadPoolExecutor(8) as threads:
        assert all(found == alone for found in threads.map(encode, range(40)))
