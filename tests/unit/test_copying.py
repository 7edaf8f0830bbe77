"""An answer of a title alone has the tokens with which the prompt lists it, so it can be copied."""

from typing import Any

import pytest

from msrrec.config import PromptConfig
from msrrec.reasoning.encoding import encode_choice, encode_text
from msrrec.reasoning.prompts import render_prompt
from tests.support.tokens import CANDIDATES, SPLITS, holds, train_byte_level

TITLE, NUMBERED = PromptConfig(answer_format="title"), PromptConfig(answer_format="number_title")


@pytest.fixture(scope="module", params=sorted(SPLITS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return train_byte_level(request.param)


def test_a_word_has_other_tokens_at_the_start_of_a_line_than_in_the_list(tokenizer: Any) -> None:
    assert len(encode_text(tokenizer, " LEGO")) == 1
    assert len(encode_text(tokenizer, "LEGO")) > 1


@pytest.mark.parametrize("order", ["history_first", "candidates_first"])
def test_an_answers_tokens_are_those_of_its_line_in_the_list(tokenizer: Any, order: Any) -> None:
    form = TITLE.model_copy(update={"order": order})
    prompt = encode_text(tokenizer, render_prompt("full", "Toys", ["Kite"], CANDIDATES, form))
    for answer in encode_choice(tokenizer, CANDIDATES, form).answers:
        assert holds(prompt, answer), tokenizer.decode(list(answer))


def test_an_answer_without_its_space_and_line_break_is_not_in_the_list(tokenizer: Any) -> None:
    prompt = encode_text(tokenizer, render_prompt("full", "Toys", ["Kite"], CANDIDATES, TITLE))
    assert not holds(prompt, encode_text(tokenizer, "LEGO (2 Pack)"))


def test_an_answer_by_number_and_title_is_spelled_as_it_was(tokenizer: Any) -> None:
    answers = encode_choice(tokenizer, CANDIDATES, NUMBERED).answers
    assert tokenizer.decode(list(answers[0])) == "(1) LEGO City"
