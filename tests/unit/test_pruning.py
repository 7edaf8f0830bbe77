"""An answer is kept when all five steps are there and step 5 names what was bought."""

import pytest

from msrrec.reasoning.prompts import render_answer, render_output, render_reasoning
from msrrec.synthesis.journal import JournalEntry, Sampling
from msrrec.synthesis.pruning import Judgement, judge

TITLES = ["Red Lamp", "Blue Kettle", "Tent"]
STEPS = [
    "likes tea",
    "(1) lamp; (2) kettle; (3) tent",
    "tea: (2)",
    "(2) fits",
    "(2) Blue Kettle. Tea.",
]
KETTLE = 1
CHAIN = render_reasoning("full", STEPS)
GOOD = render_output(CHAIN, render_answer("Blue Kettle", KETTLE, "number_title"))


def answer(text: str, thought: str | None = None, finish_reason: str = "stop") -> JournalEntry:
    sampling = Sampling("m", 0.6, 4096)
    return JournalEntry(
        "e", 0, "hash", sampling, text, thought, finish_reason, {}, "m", 0.1, 1, 0.0
    )


def test_a_whole_chain_that_ends_in_the_target_is_kept() -> None:
    assert judge(answer(GOOD), TITLES, KETTLE) == Judgement("kept", "", tuple(STEPS), KETTLE)
    assert judge(answer(CHAIN), TITLES, KETTLE).verdict == "kept"  # no answer after the marker
    assert judge(answer(GOOD + ", I guess"), TITLES, KETTLE).verdict == "kept"  # names no other


def test_another_candidate_in_step_5_or_in_the_answer_is_inconsistent() -> None:
    assert judge(answer(GOOD), TITLES, 0) == Judgement(
        "inconsistent", "not the target", tuple(STEPS), KETTLE
    )
    other = render_output(CHAIN, "(3) Tent")
    assert judge(answer(other), TITLES, KETTLE).detail == "step 5 and answer differ"
    assert judge(answer(other), TITLES, 2).verdict == "inconsistent"


@pytest.mark.parametrize(
    ("text", "verdict", "detail"),
    [
        ("", "empty", ""),
        ("Buy the kettle.", "malformed", "no steps found"),
        ("I'm sorry, but I can't help with that.", "refused", ""),
        (CHAIN.replace("Step 3. Logic Matching: tea: (2)\n", ""), "incomplete", "step 3"),
        (CHAIN.replace("(2) Blue Kettle. Tea.", "A green table."), "not_a_candidate", ""),
        (CHAIN.replace("(2) Blue Kettle. Tea.", "Red Lamp or Tent"), "begins", ""),
    ],
)
def test_each_other_answer_is_dropped_for_one_reason(text: str, verdict: str, detail: str) -> None:
    judgement = judge(answer(text), TITLES, KETTLE)
    if verdict == "begins":  # what the step begins with is its choice
        assert (judgement.verdict, judgement.index) == ("inconsistent", 0)
    else:
        assert (judgement.verdict, judgement.detail) == (verdict, detail)


@pytest.mark.parametrize(
    "text",
    ["I’m really sorry, but no.", "抱歉，我无法回答。", "<think>no</think>As an AI I don't shop."],
)
def test_refusals_in_other_words_are_refusals(text: str) -> None:
    assert judge(answer(text), TITLES, KETTLE).verdict == "refused"


def test_a_list_of_titles_is_no_chain_even_if_its_fifth_is_the_target() -> None:
    text = "1. Red Lamp\n2. Tent\n3. Old Pot\n4. Cup\n5. Blue Kettle"
    judgement = judge(answer(text), TITLES, KETTLE, history=["Old Pot"])
    assert (judgement.verdict, judgement.detail) == ("malformed", "a list of titles")


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ("Since the user bought the Blue Kettle, it fits", "tells the target as bought"),
        ("They love the Camp Stove", "names a held-out item"),
        ("The correct answer is (2)", "speaks of a known answer"),
    ],
)
def test_a_right_path_that_tells_what_it_cannot_know_is_leaked(said: str, detail: str) -> None:
    text = GOOD.replace("likes tea", said)
    judgement = judge(answer(text), TITLES, KETTLE, later=["Camp Stove"])
    assert (judgement.verdict, judgement.detail) == ("leaked", detail)
    assert judge(answer(text), TITLES, 0, later=["Camp Stove"]).verdict == "inconsistent"


def test_only_answers_that_could_not_be_read_may_be_asked_again() -> None:
    unread = [answer(""), answer("No."), answer(CHAIN, finish_reason="length")]
    assert all(judge(record, TITLES, target).is_retryable for record in unread for target in (0, 1))
    for target in (0, 1, 2):  # whatever was bought
        assert not judge(answer(GOOD), TITLES, target).is_retryable
    leaked = GOOD.replace("likes tea", "bought Blue Kettle")
    assert not judge(answer(leaked), TITLES, KETTLE).is_retryable


def test_an_answer_inside_the_thinking_does_not_count() -> None:
    text = "<think>Maybe [reasoning_end]\n(3) Tent</think>\n" + GOOD
    assert judge(answer(text), TITLES, KETTLE).verdict == "kept"


def test_two_candidates_in_step_5_are_ambiguous() -> None:
    text = CHAIN.replace("(2) Blue Kettle. Tea.", "Both Red Lamp and Tent")
    judgement = judge(answer(text), TITLES, KETTLE)
    assert (judgement.verdict, judgement.detail) == ("ambiguous", "2 candidates named")


def test_a_cut_answer_is_truncated_unless_its_reasoning_had_ended() -> None:
    assert judge(answer(CHAIN, finish_reason="length"), TITLES, KETTLE).verdict == "truncated"
    assert judge(answer(GOOD[:-4], finish_reason="length"), TITLES, KETTLE).verdict == "kept"
    assert judge(answer("", finish_reason="length"), TITLES, KETTLE).verdict == "truncated"


def test_a_filtered_answer_is_refused_whatever_it_holds() -> None:
    assert judge(answer(GOOD, finish_reason="content_filter"), TITLES, KETTLE).verdict == "refused"


def test_the_reasoning_content_counts_only_where_it_holds_the_steps_and_the_answer_none() -> None:
    wrong = GOOD.replace("(2) Blue Kettle", "(3) Tent")
    assert judge(answer("", thought=GOOD), TITLES, KETTLE).verdict == "kept"
    assert judge(answer("Blue Kettle", thought=GOOD), TITLES, KETTLE).verdict == "kept"
    assert judge(answer("", thought="Hmm, tea. So the kettle."), TITLES, KETTLE).verdict == "empty"
    assert judge(answer(wrong, thought=GOOD), TITLES, KETTLE).verdict == "inconsistent"


def test_kept_steps_are_one_line_each_and_hold_no_marker() -> None:
    text = "\n".join(f"## Step {n}\n{s}\n(more)" for n, s in enumerate(STEPS, 1))
    judgement = judge(answer(f"{text}\n"), TITLES, KETTLE)
    assert judgement.steps[0] == "likes tea (more)"
    thought = GOOD.replace("likes tea", "[[reasoning_start]] tea")
    steps = judge(answer(thought), TITLES, KETTLE).steps
    assert all("[reasoning_start]" not in step for step in steps)
