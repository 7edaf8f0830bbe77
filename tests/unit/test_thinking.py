"""Thoughts, speech, outputs and answers are told apart as a plain, slow reading tells them apart.

The slow reading below knows the same rules and none of the patterns: it looks at one place after
another for a mark by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrrec.reasoning.parsing import Chain, ParseFailure, parse_completion
from msrrec.reasoning.prompts import STEPS
from msrrec.reasoning.thinking import Thinking, split_thinking
from msrrec.titles import REASONING_END, REASONING_START

NAMES = STEPS["full"]

OPENING = {
    "<think>": "think",
    "<THINKING>": "think",
    "<seed:think>": "think",
    "<reasoning type='x'>": "reasoning",
    "<analysis>": "analysis",
    "<reflection>": "reflection",
    '<details open type="reasoning">': "details",
    "[THINK]": "bracket",
    "◁think▷": "triangle",
    "<|channel|>analysis<|message|>": "harmony",
    "<|begin_of_thought|>": "token",
}
CLOSING = {
    "</think>": "think",
    "</thoughts>": "think",
    "</reasoning>": "reasoning",
    "</analysis>": "analysis",
    "</reflection>": "reflection",
    "</details>": "details",
    "[/THINK]": "bracket",
    "◁/think▷": "triangle",
    "<|end|>": "harmony",
    "<|channel|>final<|message|>": "harmony",
    "<|end_of_thought|>": "token",
}
NEEDS_OPENING = ("</details>", "<|end|>")
WRAPPERS = ("<answer>", "</answer>", "<|return|>", "<|end|>")
MARKS = (*OPENING, *CLOSING)


@dataclass(frozen=True)
class Reading:
    """What a completion holds: the steps or why not, the answer, and where they stand."""

    steps: tuple[str, ...] | str
    answer: str | None
    is_thought: bool
    is_silent: bool
    is_open: bool


def find_mark(text: str, begin: int) -> tuple[int, str] | None:
    """The next mark, and where it is."""
    for place in range(begin, len(text)):
        for mark in MARKS:
            if text.startswith(mark, place):
                return place, mark
    return None


def split_slowly(text: str) -> Thinking:
    """Thoughts and speech, one mark after another."""
    thoughts: list[str] = []
    speech, place, inside = "", 0, ""
    begin = 0
    while (found := find_mark(text, place)) is not None:
        at, mark = found
        place = at + len(mark)
        if not inside and mark in OPENING:
            speech += text[begin:at]
            begin, inside = place, OPENING[mark]
        elif not inside and mark in CLOSING and mark not in NEEDS_OPENING:
            thoughts.append(speech + text[begin:at])
            speech, begin = "", place
        elif inside and CLOSING.get(mark) == inside:
            thoughts.append(text[begin:at])
            begin, inside = place, ""
    if inside:
        thoughts.append(text[begin:])
    else:
        speech += text[begin:]
    thinking = "\n".join(thoughts)
    for mark in (*MARKS, *WRAPPERS):
        thinking = thinking.replace(mark, "\n")
    for wrapper in WRAPPERS:
        speech = speech.replace(wrapper, "\n")
    return Thinking(thinking.strip(), speech, bool(inside))


def read_steps_slowly(text: str) -> tuple[str, ...] | str:
    """The bodies of the last whole chain, of the first where none is whole, or why there is none.

    Only lines that begin with ``Step n. Name:``, as the texts of the test have them.
    """
    if not text.strip():
        return "empty"
    lines = text.split("\n")
    heads = [head_of(line) for line in lines]
    first = next(filter(None, heads), 0)
    begins = [n for n, head in enumerate(heads) if head and head == first]
    parts = list(zip(begins, [*begins[1:], len(lines)], strict=False))
    wholes = [(b, e) for b, e in parts if len(set(heads[b:e]) - {0}) == len(NAMES)]
    begin, end = wholes[-1] if wholes else (0, len(lines))
    bodies: dict[int, str] = {}
    number = last = 0
    for n in range(begin, end):
        if heads[n] and heads[n] not in bodies:
            number, last = heads[n], n
            bodies[number] = lines[n].partition(":")[2]
        elif number:
            bodies[number] += "\n" + lines[n]
    if not wholes and any(n > last for n in begins):  # it begins again after its last step
        again = min(n for n in begins if n > last)
        bodies[number] = "\n".join(lines[last:again]).partition(":")[2]
    if sum(map(bool, heads)) < 2:
        return "malformed"
    steps = [bodies.get(n, "").strip() for n in range(1, len(NAMES) + 1)]
    return tuple(steps) if all(steps) else "incomplete"


def head_of(line: str) -> int:
    """The step that a line is a heading of, or 0."""
    heads = [n for n, name in enumerate(NAMES, 1) if line.startswith(f"Step {n}. {name}:")]
    return heads[0] if heads else 0


def read_last_slowly(text: str) -> tuple[tuple[str, ...] | str, str | None]:
    """The last chain that is begun, and the last answer from there on."""
    *ended, tail = text.split(REASONING_END)
    heads = list(filter(None, map(head_of, tail.split("\n"))))
    if ended and REASONING_START not in tail and len(heads) > 1 and heads[0] == 1:
        return read_steps_slowly(tail), None
    outputs: list[tuple[str, str | None]] = []
    for n, piece in enumerate(ended):
        after = (*ended, tail)[n + 1].split(REASONING_START)[0].strip()
        outputs.append((piece.split(REASONING_START)[-1], after))
    if not ended or REASONING_START in tail:
        outputs.append((tail.split(REASONING_START)[-1], None))
    chains = [read_steps_slowly(reasoning) for reasoning, _ in outputs]
    chosen = 0
    for n, chain in enumerate(chains):
        if not isinstance(chain, str) or chain == "incomplete":
            chosen = n
    answer = outputs[chosen][1]
    for _, later in outputs[chosen:]:
        answer = later or answer
    return chains[chosen], answer


def read_slowly(text: str) -> Reading:
    parts = split_slowly(text)
    steps, answer = read_last_slowly(parts.speech)
    speech = parts.speech.strip()
    if not speech:
        return Reading(steps, answer, False, bool(parts.thinking), parts.is_open)
    if steps in ("empty", "malformed"):
        thought, _ = read_last_slowly(parts.thinking)
        if not isinstance(thought, str):
            return Reading(thought, answer or speech, True, False, parts.is_open)
    return Reading(steps, answer, False, False, parts.is_open)


def read_fast(text: str) -> Reading:
    found = parse_completion(text)
    chain = found.chain
    steps = chain.reason if isinstance(chain, ParseFailure) else chain.steps
    return Reading(steps, found.answer, found.is_thought, found.is_silent, found.is_open)


def render(steps: Sequence[str]) -> str:
    return "\n".join(f"Step {n}. {NAMES[n - 1]}: {step}" for n, step in enumerate(steps, 1))


WORDS = st.sampled_from(["tea", "lamps fit", "hm", "so it is", "kettle"])
CHAIN = st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS).map(render)
PIECE = st.one_of(
    CHAIN,
    CHAIN,
    st.sampled_from(MARKS),
    st.sampled_from(MARKS),
    st.sampled_from([REASONING_START, REASONING_END, REASONING_END]),
    st.sampled_from(WRAPPERS),
    st.lists(WORDS, min_size=2, max_size=4).map(render),
    WORDS,
)


@settings(max_examples=1500)
@given(st.lists(PIECE, max_size=9).map("\n".join))
def test_a_completion_is_read_as_the_plain_rules_read_it(text: str) -> None:
    assert split_thinking(text) == split_slowly(text)
    assert read_fast(text) == read_slowly(text)


@given(st.lists(st.sampled_from([*MARKS, *WRAPPERS, "a", "<", "[", " ", "\n"]), max_size=12))
def test_marks_in_any_order_are_told_apart_alike(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert split_thinking(text) == split_slowly(text)


@given(st.text())
def test_a_text_without_marks_was_said_as_it_is(text: str) -> None:
    assert split_thinking("x" + text.replace("<", "")).speech == "x" + text.replace("<", "")


@pytest.mark.parametrize("chain", ["[reasoning_start]\n{}\n[reasoning_end]\nX", "{}"])
def test_of_two_whole_chains_the_last_is_read(chain: str) -> None:
    first, second = (chain.replace("{}", render(words)) for words in ("ABCDE", "FGHIJ"))
    assert parse_completion(f"{first}\n\nWait.\n\n{second}").chain == Chain(tuple("FGHIJ"))
    inline = "Step 1: A Step 2: B Step 3: C Step 4: D Step 5: E "
    again = inline.translate(str.maketrans("ABCDE", "FGHIJ"))
    assert parse_completion(inline + again.strip()).chain == Chain(tuple("FGHIJ"))


@pytest.mark.timeout(60)  # all take a second; one quadratic pattern takes minutes
def test_hostile_texts_take_no_longer_than_their_length() -> None:
    half = ("<", "<details ", "<think", "<|channel|>a", "<w:", "here is my ")
    for trap in (*MARKS, *WRAPPERS, *half):
        text = "\n" + "*" * 40_000 + trap * (40_000 // len(trap))
        assert isinstance(split_thinking(text), Thinking)
