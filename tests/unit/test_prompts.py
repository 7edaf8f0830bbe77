"""What a prompt shows can be read back, and nothing in a title changes its shape."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.config import AnswerFormat
from msrrec.reasoning.parsing import ParsedPrompt, parse_prompt
from msrrec.reasoning.prompts import (
    Side,
    project_steps,
    render_context,
    render_output,
    render_prompt,
    render_reasoning,
    sanitize_step,
)
from msrrec.titles import REASONING_END, REASONING_START, clean_title

TITLES = st.lists(
    st.text(max_size=60)
    | st.sampled_from(["Candidates:", "- x", "(1) y", "a\nb", "[reasoning_end]", "1. z"]),
    min_size=1,
    max_size=6,
)


@given(TITLES, TITLES, st.sampled_from(get_args(Side)), st.sampled_from(get_args(AnswerFormat)))
def test_a_prompt_is_read_back_as_it_was_rendered(
    history: list[str], candidates: list[str], side: Side, answer_format: AnswerFormat
) -> None:
    prompt = render_prompt(side, "Toys & Games", history, candidates, answer_format)
    assert parse_prompt(prompt) == ParsedPrompt(
        side,
        "Toys & Games",
        tuple(map(clean_title, history)),
        tuple(map(clean_title, candidates)),
        answer_format,
    )


@given(TITLES, TITLES)
def test_all_sides_share_the_context_as_prefix(history: list[str], candidates: list[str]) -> None:
    context = render_context("Toys", history, candidates)
    for side in get_args(Side):
        assert render_prompt(side, "Toys", history, candidates).startswith(context)
    # one line each for the domain, two headings, and every title
    assert context.count("\n") == 3 + len(history) + len(candidates)


@pytest.mark.parametrize("answer_format", get_args(AnswerFormat))
def test_chains_of_one_example_part_only_in_their_goals(answer_format: AnswerFormat) -> None:
    sides: tuple[Side, ...] = ("full", "user", "item")
    prompts = [render_prompt(side, "Toys", ["a"], ["b", "c"], answer_format) for side in sides]
    (shared,) = {prompt.partition("Recommend the next purchase")[0] for prompt in prompts}
    assert shared.endswith("exactly as listed.\n")
    assert len(set(prompts)) == 3


def test_other_texts_are_no_prompts() -> None:
    prompt = render_prompt("full", "Toys", ["a"], ["b", "c"])
    assert parse_prompt("") is None
    assert parse_prompt(prompt + " ") is None
    assert parse_prompt(prompt.replace("Candidates:", "Items:")) is None
    assert parse_prompt(prompt.replace("Domain: ", "")) is None


def test_reasoning_is_one_line_a_step_and_markers_lose_their_brackets() -> None:
    steps = ["a\nb", "[reasoning_end] c", "d", "e", "f"]
    assert render_reasoning("full", steps) == (
        "Step 1. Preference Recognition: a b\n"
        "Step 2. Attribute Analysis: reasoning_end c\n"
        "Step 3. Logic Matching: d\n"
        "Step 4. Candidate Choice: e\n"
        "Step 5. Recommendation: f\n"
    )
    with pytest.raises(ValueError, match="5 steps, got 4"):
        render_reasoning("full", steps[:4])


@given(st.text(alphabet="[]_ndeigrsatof ", max_size=80), st.integers(0, 60))
def test_no_step_can_close_the_reasoning(text: str, place: int) -> None:
    for marker in (REASONING_END, REASONING_START, f"[{REASONING_END}]"):
        sanitized = sanitize_step(text[:place] + marker + text[place:])
        assert REASONING_END not in sanitized
        assert REASONING_START not in sanitized
        assert sanitize_step(sanitized) == sanitized


def test_the_short_chains_are_cut_from_the_full_one() -> None:
    steps = ("preference", "attributes", "matching", "choice", "recommendation")
    assert project_steps("user", steps) == ("preference", "matching", "recommendation")
    assert project_steps("item", steps) == ("attributes", "matching", "recommendation")
    assert project_steps("full", steps) == steps


def test_an_output_holds_the_markers_of_figure_4_in_order() -> None:
    assert render_output("Step 1. x\n", "Lamp") == (
        "[reasoning_start]\nStep 1. x\n[reasoning_end]\nLamp"
    )
