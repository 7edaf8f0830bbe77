"""What a prompt shows can be read back, and nothing in a title changes its shape."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.config import AnswerFormat, InstructionForm, Order, PromptConfig
from msrrec.reasoning.parsing import (
    ParsedPrompt,
    parse_plain_prompt,
    parse_prompt,
    parse_recovery_prompt,
)
from msrrec.reasoning.prompts import (
    Side,
    project_steps,
    render_context,
    render_instruction,
    render_output,
    render_plain_prompt,
    render_prompt,
    render_reasoning,
    render_recovery_prompt,
    sanitize_step,
)
from msrrec.titles import REASONING_END, REASONING_START, clean_title, show_titles

TITLES = st.lists(
    st.text(max_size=60)
    | st.sampled_from(["Candidates:", "- x", "(1) y", "a\nb", "[reasoning_end]", "1. z"]),
    min_size=1,
    max_size=6,
)
FORMS = st.builds(
    PromptConfig,
    order=st.sampled_from(get_args(Order)),
    answer_format=st.sampled_from(get_args(AnswerFormat)),
    instruction=st.sampled_from(get_args(InstructionForm)),
    max_title_chars=st.sampled_from((16, 40, 160)),
)


def as_read(
    side: Side, history: list[str], candidates: list[str], form: PromptConfig
) -> ParsedPrompt:
    """What is read of a prompt in which these titles were rendered."""
    return ParsedPrompt(
        side,
        "Toys & Games",
        tuple(clean_title(title, form.max_title_chars) for title in history),
        tuple(show_titles(candidates, form.max_title_chars)),
        form.model_copy(update={"max_title_chars": 160}),
    )


@given(TITLES, TITLES, st.sampled_from(get_args(Side)), FORMS)
def test_a_prompt_is_read_back_as_it_was_rendered(
    history: list[str], candidates: list[str], side: Side, form: PromptConfig
) -> None:
    prompt = render_prompt(side, "Toys & Games", history, candidates, form)
    assert parse_prompt(prompt) == as_read(side, history, candidates, form)
    plain = render_plain_prompt("Toys & Games", history, candidates, form)
    assert parse_plain_prompt(plain) == as_read("direct", history, candidates, form)


@given(st.text(max_size=60), TITLES, FORMS)
def test_a_prompt_for_recovery_is_read_back_in_every_form(
    rationale: str, candidates: list[str], form: PromptConfig
) -> None:
    prompt = render_recovery_prompt("Toys & Games", rationale, candidates, form)
    found = parse_recovery_prompt(prompt)
    assert found is not None
    assert found.form == form.model_copy(update={"max_title_chars": 160})
    assert found.history == (rationale.encode("utf-8", "replace").decode(),)
    assert list(found.candidates) == show_titles(candidates, form.max_title_chars)


PLAIN_PROMPT = """\
Domain: Toys
History, oldest first:
- Red Kite
- Blue Kite
Candidates:
(1) Green Kite
(2) Tin Mug
Write nothing between [reasoning_start] and [reasoning_end], then the number and title of the \
recommended candidate, exactly as listed.
Recommend the next purchase at once, without reasoning."""


def test_a_prompt_lists_history_then_candidates_and_asks_last() -> None:
    titles = ["Red Kite", "Blue Kite"], ["Green Kite", "Tin Mug"]
    assert render_prompt("direct", "Toys", *titles) == PLAIN_PROMPT
    user = render_prompt("user", "Toys", *titles, PromptConfig(answer_format="title"))
    assert user == PLAIN_PROMPT.partition("Write nothing")[0] + (
        "Write the steps between [reasoning_start] and [reasoning_end], then the title of the "
        "recommended candidate, exactly as listed.\n"
        "Recommend the next purchase, reasoning from the side of the user.\n"
        "Step 1. Preference Summary: summarise the user's preferences.\n"
        "Step 2. Candidate Matching: match the preferences with the candidates.\n"
        "Step 3. Item Selection: name the one recommended candidate and say why."
    )


def test_candidates_first_swaps_the_lists_and_leaves_the_instruction_last() -> None:
    form = PromptConfig(order="candidates_first", instruction="short")
    assert render_prompt("user", "Toys", ["Red Kite"], ["Green Kite", "Tin Mug"], form) == (
        "Domain: Toys\nCandidates:\n(1) Green Kite\n(2) Tin Mug\n"
        "History, oldest first:\n- Red Kite\n"
        "Steps: Preference Summary, Candidate Matching, Item Selection; [reasoning_end]; number "
        "and title."
    )
    recovery = render_recovery_prompt("Toys", "it flies", ["Green Kite"], form)
    assert recovery.startswith('Domain: Toys\nCandidates:\n(1) Green Kite\nRationale:\n"it flies"')


def test_short_instructions_have_at_most_twenty_words_and_differ_by_side() -> None:
    form = PromptConfig(instruction="short")
    found = [render_instruction(side, form) for side in get_args(Side)]
    assert len(set(found)) == len(found)
    for text in found:
        assert len(text.replace("_", " ").replace("-", " ").split()) <= 20


@given(TITLES, TITLES, FORMS)
def test_all_sides_share_the_context_as_prefix(
    history: list[str], candidates: list[str], form: PromptConfig
) -> None:
    context = render_context("Toys", history, candidates, form)
    for side in get_args(Side):
        assert render_prompt(side, "Toys", history, candidates, form).startswith(context)
    # one line each for the domain, two headings, and every title
    assert context.count("\n") == 3 + len(history) + len(candidates)


@pytest.mark.parametrize("answer_format", get_args(AnswerFormat))
def test_chains_of_one_example_part_only_in_their_goals(answer_format: AnswerFormat) -> None:
    sides: tuple[Side, ...] = ("full", "user", "item")
    form = PromptConfig(answer_format=answer_format)
    prompts = [render_prompt(side, "Toys", ["a"], ["b", "c"], form) for side in sides]
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
