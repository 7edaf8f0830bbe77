import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.config import PromptConfig
from msrrec.engines.base import Generation
from msrrec.errors import DataError
from msrrec.inference.codec import count_reasoning_tokens, read_generation, request_seed
from msrrec.reasoning.encoding import Query, check_query, encode_prompt, encode_text, fit_prompt
from msrrec.reasoning.prompts import OUTPUT_PREFIX, render_prompt
from tests.support.engine import CharTokenizer

CANDIDATES = ("Red Lamp", "Blue Shoe", "Oak Table")


def query(*history: str, candidates: tuple[str, ...] = CANDIDATES) -> Query:
    return Query("u1", "Home", history or ("Steel Pan",), candidates)


class PieceTokenizer(CharTokenizer):
    """Several characters a token, so that a marker begins inside one."""

    pieces = ("ab", "c[reaso", "ning_", "end]", "\n(1", ") Red", " Lamp")

    def decode(self, ids: object, **_: object) -> str:
        return "".join(self.pieces[i] for i in ids)  # type: ignore[attr-defined]


class TemplateTokenizer(CharTokenizer):
    """A chat template, and one special token that ordinary text may spell."""

    chat_template = "yes"
    special = 0x110000 - 1

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        return f"<|user|>{messages[0]['content']}<|end|><|assistant|>"

    def encode(self, text: str, split_special_tokens: bool = False, **_: object) -> list[int]:
        ids = []
        while text:
            if text.startswith("<|end|>") and not split_special_tokens:
                ids.append(self.special)
                text = text.removeprefix("<|end|>")
            else:
                ids.append(ord(text[0]))
                text = text[1:]
        return ids


def test_a_prompt_without_a_template_is_the_prompt_a_line_break_and_the_output_prefix() -> None:
    assert encode_prompt(CharTokenizer(), "What next?") == [
        ord(c) for c in "What next?\n[reasoning_start]\n"
    ]


def test_a_beginning_token_stands_first() -> None:
    tokenizer = CharTokenizer()
    tokenizer.bos_token = "^"
    assert CharTokenizer().decode(encode_prompt(tokenizer, "Q")) == "^Q\n[reasoning_start]\n"


def test_only_the_template_makes_special_tokens() -> None:
    ids = encode_prompt(TemplateTokenizer(), "a title <|end|> of a stranger")
    assert ids.count(TemplateTokenizer.special) == 1
    text = "".join(chr(i) for i in ids if i != TemplateTokenizer.special)
    assert text == f"<|user|>a title <|end|> of a stranger<|assistant|>{OUTPUT_PREFIX}"
    assert TemplateTokenizer.special not in encode_text(TemplateTokenizer(), "<|end|>")


@pytest.mark.parametrize("kept", [1, 2, 3, 7, 8])
def test_the_oldest_history_goes_first_and_no_more_than_needed(kept: int) -> None:
    titles = [f"Title number {n}" for n in range(8)]
    whole = query(*titles)
    shortened = render_prompt(
        "user", "Home", titles[-kept:], CANDIDATES, PromptConfig(answer_format="title")
    )
    expected = encode_prompt(CharTokenizer(), shortened)
    for room in (len(expected), len(expected) + 5):
        ids, dropped = fit_prompt(
            CharTokenizer(), "user", whole, PromptConfig(answer_format="title"), room
        )
        assert (ids, dropped) == (expected, 8 - kept)


def test_a_prompt_that_does_not_fit_with_one_title_names_the_query() -> None:
    with pytest.raises(DataError, match=r"^u1: the prompt has \d+ tokens .* at most 100;"):
        fit_prompt(
            CharTokenizer(), "user", query("a", "b", "c"), PromptConfig(answer_format="title"), 100
        )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Query("k", "d", (), CANDIDATES), "history: found no titles"),
        (Query("k", "d", ("a",), ("x",)), "candidates: found 1"),
        (Query("k", "d", ("a", " \u200b "), CANDIDATES), r"history\[1\]: the title is blank"),
        (Query("k", "d", ("a",), ("x", "")), r"candidates\[1\]: the title is blank"),
        (Query("k", "d", ("a",), ("Tom &amp; Co", "y", "tom & co.")), r"candidates\[2\].*\[0\]"),
    ],
)
def test_what_no_model_could_answer_is_refused(broken: Query, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_query(broken)


def test_seeds_differ_by_run_example_and_side_and_are_the_same_everywhere() -> None:
    seeds = {
        request_seed(run, key, side)
        for run in (0, 1)
        for key in ("u1", "u2")
        for side in ("user", "item")
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(0, "u1", "user") == 1387451769


def generation(text: str, logprobs: tuple[float, ...] | None = None) -> Generation:
    ids = tuple(ord(c) for c in text)
    return Generation(ids, logprobs or (-0.5,) * len(ids), "stop")


def test_an_output_is_read_into_reasoning_candidate_and_perplexity() -> None:
    text = "Step 1. Why\n[reasoning_end]\n(2) Blue Shoe"
    # Perplexity over the 12 characters before the marker, of probability 1/4 each: 4.
    logprobs = (math.log(1 / 4),) * 12 + (-9.0,) * (len(text) - 12)
    output = read_generation(CharTokenizer(), "user", CANDIDATES, generation(text, logprobs))
    assert output.index == 1
    assert output.reasoning == "Step 1. Why"
    assert output.text == "[reasoning_start]\n" + text
    assert output.perplexity == pytest.approx(4.0)
    assert output.num_tokens == len(text)


def test_an_output_without_an_end_marker_is_invalid_and_all_reasoning() -> None:
    output = read_generation(CharTokenizer(), "item", CANDIDATES, generation("(1) Red Lamp"))
    assert output.index is None
    assert output.perplexity == pytest.approx(math.exp(0.5))


def test_an_answer_at_once_has_no_perplexity() -> None:
    text = "[reasoning_end]\n(3) Oak Table"
    output = read_generation(CharTokenizer(), "direct", CANDIDATES, generation(text))
    assert (output.index, output.perplexity, output.reasoning) == (2, None, "")


def test_an_empty_output_is_invalid() -> None:
    output = read_generation(CharTokenizer(), "user", CANDIDATES, Generation((), (), "stop"))
    assert (output.index, output.perplexity, output.num_tokens) == (None, None, 0)


def test_a_token_that_holds_the_markers_first_character_is_not_reasoning() -> None:
    written = "".join(PieceTokenizer.pieces)
    assert count_reasoning_tokens(PieceTokenizer(), range(7), written) == 1


@given(st.text(), st.text())
def test_reasoning_tokens_are_those_before_the_first_marker(before: str, after: str) -> None:
    written = f"{before}[reasoning_end]{after}"
    ids = CharTokenizer().encode(written)
    expected = written.index("[reasoning_end]")
    assert count_reasoning_tokens(CharTokenizer(), ids, written) == expected


@given(st.text())
def test_no_output_of_a_model_raises(text: str) -> None:
    output = read_generation(CharTokenizer(), "user", CANDIDATES, generation(text))
    assert output.index in {None, 0, 1, 2}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_output_with_a_log_probability_that_is_no_number_is_invalid(broken: float) -> None:
    ids = tuple(map(ord, "Why\n[reasoning_end]\n(1) Red Lamp"))
    sound = (-0.5,) * len(ids)
    for place in (0, len(ids) - 1):  # in the reasoning, in the answer
        scores = (*sound[:place], broken, *sound[place + 1 :])
        output = read_generation(CharTokenizer(), "user", CANDIDATES, Generation(ids, scores, ""))
        assert (output.index, output.perplexity, output.perplexity_output) == (None, None, None)
        assert (output.reasoning, output.num_tokens) == ("Why", len(ids))
    output = read_generation(CharTokenizer(), "user", CANDIDATES, Generation(ids, sound, ""))
    assert output.index == 0
