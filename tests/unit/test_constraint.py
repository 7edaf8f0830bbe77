from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.config import PromptConfig
from msrrec.engines.base import Generation
from msrrec.engines.constraint import Ending, Marker
from msrrec.errors import DataError
from msrrec.inference.codec import read_generation
from msrrec.reasoning.encoding import Query, check_query, encode_choice
from tests.support.engine import CharTokenizer

END = 0
TITLES = ("Red Lamp", "Red Lamp 2", "Blue Shoe")


class PieceTokenizer(CharTokenizer):
    """Characters, and a few tokens of several: a marker can be spelled in many ways."""

    pieces = ("[reasoning_end]", "[reaso", "ning_end", "]\n", "d]", "d]\n\n", "]!", "_end")

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(self.pieces[i] if i < len(self.pieces) else chr(i) for i in ids)


def ids_of(text: str) -> list[int]:
    return [ord(c) for c in text]


def begin(max_tokens: int = 200, titles: Sequence[str] = TITLES) -> Ending:
    tokenizer = PieceTokenizer()
    choice = encode_choice(tokenizer, titles, PromptConfig(answer_format="title"))
    return Ending(Marker(tokenizer), choice.closing, choice.answers, END, max_tokens)


def follow(ending: Ending, pick: int) -> str:
    """What is written from here on, taking the pick-th way wherever there are several."""
    ids: list[int] = []
    while ending.allowed:
        token_id = ending.allowed[pick % len(ending.allowed)]
        ids.append(token_id)
        ending.feed(token_id)
    assert ids[-1] == END
    return PieceTokenizer().decode(ids[:-1])


@pytest.mark.parametrize(
    ("spelled", "rest"),
    [
        ([0], "\n"),
        (ids_of("[reasoning_end"), "]\n"),  # the bracket is not left to "]!"
        ([1, 2], "]\n"),
        ([*ids_of("[reasoning_en"), 4], "\n"),
        ([*ids_of("[reasoning_en"), 5], ""),
        ([*ids_of("[reasoning"), 7], "]\n"),
    ],
)
def test_a_marker_binds_the_output_however_it_is_spelled(spelled: list[int], rest: str) -> None:
    ending = begin()
    for token_id in [*ids_of("Step 1. [reason, the end]\n"), *spelled[:-1]]:
        ending.feed(token_id)
        assert ending.allowed is None
    ending.feed(spelled[-1])
    assert follow(ending, 0) == rest + " Red Lamp\n"


def test_every_candidate_is_reachable_and_nothing_else() -> None:
    found = set()
    for pick in range(6):
        ending = begin()
        ending.feed(0)
        found.add(follow(ending, pick).strip())
    ending = begin()
    ending.feed(0)
    for token_id in ids_of("\n Red Lamp"):
        ending.feed(token_id)
    assert set(ending.allowed or ()) == {ord("\n"), ord(" ")}  # one title begins another
    assert found | {"Red Lamp 2"} == set(TITLES)


def test_reasoning_that_does_not_end_is_ended_with_room_for_the_longest_answer() -> None:
    # "[reasoning_end]\n" 16, " Red Lamp 2\n" 12, the end token 1: 29 of 42 are kept free.
    ending = begin(max_tokens=42)
    for _ in range(12):
        ending.feed(ord("x"))
        assert ending.allowed is None
    ending.feed(ord("x"))
    assert follow(ending, 0) == "[reasoning_end]\n Red Lamp\n"


def test_without_room_the_answer_comes_at_once() -> None:
    assert follow(begin(max_tokens=5), 1) == "[reasoning_end]\n Blue Shoe\n"


def test_a_prompt_that_ends_in_the_marker_is_answered_at_once() -> None:
    tokenizer = PieceTokenizer()
    ending = Ending(Marker(tokenizer), (), [tuple(ids_of("Blue Shoe"))], END, 10)
    assert follow(ending, 0) == "Blue Shoe"


def test_a_closing_that_has_begun_goes_on() -> None:
    ending = begin()
    ending.feed(ord("["))
    ending.close(written=1)
    assert follow(ending, 1) == "reasoning_end]\n Blue Shoe\n"


@given(
    st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=8),
    st.sampled_from(("title", "number_title")),
    st.text(max_size=40),
)
def test_whatever_the_titles_each_is_read_back_as_itself(
    titles: list[str], answer_format: str, reasoning: str
) -> None:
    query = Query("u", "Home", ("a",), tuple(titles))
    try:
        check_query(query)
    except DataError:
        return
    choice = encode_choice(
        CharTokenizer(),
        titles,
        PromptConfig(answer_format=answer_format),  # type: ignore[arg-type]
    )
    assert len(set(choice.answers)) == len(titles)
    for n, answer in enumerate(choice.answers):
        ids = (*ids_of(reasoning.replace("[", "(")), *choice.closing, *answer)
        generation = Generation(ids, (-0.5,) * len(ids), "stop")
        output = read_generation(
            CharTokenizer(),
            "user",
            titles,
            generation,
            answer_format,  # type: ignore[arg-type]
        )
        assert output.index == n
