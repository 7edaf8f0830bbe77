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
    assert judge(answer(GOOD), TITLES, KETTLE) == Judgement(
        "kept", "", tuple(STEPS), KETTLE, rule="title"
    )
    assert judge(answer(CHAIN), TITLES, KETTLE).verdict == "kept"  # no answer after the marker
    assert judge(answer(GOOD + ", I guess"), TITLES, KETTLE).verdict == "kept"  # names no other


def test_another_candidate_in_step_5_or_in_the_answer_is_inconsistent() -> None:
    assert judge(answer(GOOD), TITLES, 0) == Judgement(
        "inconsistent", "not the target", tuple(STEPS), KETTLE, rule="title"
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


def test_thoughts_apart_from_the_answer_count_only_where_that_names_their_choice() -> None:
    wrong = GOOD.replace("(2) Blue Kettle", "(3) Tent")
    assert judge(answer("Blue Kettle", thought=GOOD), TITLES, KETTLE).verdict == "kept"
    assert judge(answer("So I choose Tent.", thought=GOOD), TITLES, KETTLE).detail == (
        "step 5 and answer differ"
    )
    unnamed = judge(answer("I hope this helps.", thought=GOOD), TITLES, KETTLE)
    assert (unnamed.verdict, unnamed.detail) == ("malformed", "the steps were only thought")
    assert judge(answer(wrong, thought=GOOD), TITLES, KETTLE).verdict == "inconsistent"


OTHER = GOOD.replace("(2) Blue Kettle", "(3) Tent")
DRESSES = [
    "<think>{}</think>{}",
    "{}</think>{}",
    "<think>hm<think>hm</think>{}</think>{}",
    "<thinking type='deep'>\n{}\n</thinking>\n<output>{}</output>",
    "<thought>{}</thinking>{}",
    "<seed:think>{}</seed:think>{}",
    "[THINK]{}[/THINK]{}",
    "◁think▷{}◁/think▷{}",
    "<analysis>{}</analysis>{}",
    "<reflection>{}</reflection><answer>{}</answer>",
    "<scratchpad>{}</scratchpad>{}",
    '<details type="reasoning" done="true">\n<summary>4 s</summary>\n{}\n</details>\n{}',
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}"
    "<|return|>",
    "analysisThe user: {}assistantfinal{}",
    "<|begin_of_thought|>{}<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
    "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|channel>thought\n{}<channel|>{}",
    "Here is my thought process:\n\n{}\n\nHere is my response:\n\n{}",
    "**Here's my thought process:**\n{}\n**Here's my final answer:**\n{}",
    "Thinking...\n{}\n...done thinking.\n\n{}",
    "{}\nWait, no.\n{}",
    "Sure.\n[reasoning_start]\n{}\n\n{}",
]
NEVER_CLOSED = [dress.partition("{}")[0] for dress in (DRESSES[0], *DRESSES[3:-2])]


@pytest.mark.parametrize("dress", DRESSES)
def test_what_is_said_after_a_whole_draft_decides(dress: str) -> None:
    assert judge(answer(dress.format(OTHER, GOOD)), TITLES, KETTLE) == Judgement(
        "kept", "", tuple(STEPS), KETTLE, rule="title"
    )
    other = judge(answer(dress.format(GOOD, OTHER)), TITLES, KETTLE)
    assert (other.verdict, other.index) == ("inconsistent", 2)


@pytest.mark.parametrize("dress", DRESSES[:-2])
def test_an_answer_after_a_draft_in_the_thoughts_must_name_its_choice(dress: str) -> None:
    assert judge(answer(dress.format(GOOD, "(2) Blue Kettle")), TITLES, KETTLE).verdict == "kept"
    for said in ("(3) Tent", "In the end I recommend the Tent.", "Hm."):
        assert judge(answer(dress.format(GOOD, said)), TITLES, KETTLE).verdict != "kept"


@pytest.mark.parametrize("opening", NEVER_CLOSED)
def test_a_draft_in_thoughts_that_were_cut_is_truncated(opening: str) -> None:
    for draft in (GOOD, CHAIN):
        cut = answer(opening + draft, finish_reason="length")
        assert judge(cut, TITLES, KETTLE).verdict == "truncated"
    said_before = answer(f"{GOOD}\n<think>Wait, {OTHER}", finish_reason="length")
    assert judge(said_before, TITLES, KETTLE).verdict == "truncated"


def test_thoughts_alone_are_truncated_wherever_they_stand() -> None:
    alone = [
        answer("", GOOD),
        answer("", "Hm."),
        answer(f"<think>{GOOD}"),
        answer(f"{GOOD}</think>"),
    ]
    for entry in alone:
        found = judge(entry, TITLES, KETTLE)
        assert (found.verdict, found.detail, found.is_retryable) == (
            "truncated",
            "thoughts alone",
            True,
        )
    assert judge(answer("<think></think>"), TITLES, KETTLE).verdict == "empty"


def test_a_phrase_that_nothing_closes_introduces_what_was_said() -> None:
    said = answer(f"Here is my thought process:\n{GOOD}")
    assert judge(said, TITLES, KETTLE).verdict == "kept"
    inside = answer(f"Here is my thought process:\n<think>{OTHER}</think>{GOOD}")
    assert judge(inside, TITLES, KETTLE).verdict == "kept"


@pytest.mark.parametrize(
    "second",
    [
        "Step 1. Preference Recognition: tea\nStep 2. User",
        "[reasoning_start]\nStep 1. x\nStep 2. y",
    ],
)
def test_a_second_chain_that_was_cut_leaves_nothing_to_keep(second: str) -> None:
    text = f"{GOOD}\n\n{second}"
    assert judge(answer(text, finish_reason="length"), TITLES, KETTLE).verdict == "truncated"
    assert judge(answer(text), TITLES, KETTLE).verdict == "incomplete"


@pytest.mark.parametrize(
    "reason",
    [
        *("length", "insufficient_system_resource", "MAX_TOKENS", "max_tokens", "abort"),
        *("model_length", "timeout", "repetition", "tool_calls", "{'type': 'length'}"),
    ],
)
def test_only_a_text_that_its_model_ended_is_whole(reason: str) -> None:
    cut = CHAIN[: CHAIN.rindex("Tea.")] + "It fits the us"
    assert judge(answer(cut, finish_reason=reason), TITLES, KETTLE).verdict == "truncated"
    for ended in ("stop", "STOP", "eos", "end_turn", ""):
        assert judge(answer(cut, finish_reason=ended), TITLES, KETTLE).verdict == "kept"


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "PROHIBITED_CONTENT", "refusal"])
def test_what_a_filter_withheld_is_refused(reason: str) -> None:
    assert judge(answer(CHAIN, finish_reason=reason), TITLES, KETTLE).verdict == "refused"


def test_kept_steps_are_one_line_each_and_hold_no_marker() -> None:
    text = "\n".join(f"## Step {n}\n{s}\n(more)" for n, s in enumerate(STEPS, 1))
    judgement = judge(answer(f"{text}\n"), TITLES, KETTLE)
    assert judgement.steps[0] == "likes tea (more)"
    thought = GOOD.replace("likes tea", "[[reasoning_start]] tea")
    steps = judge(answer(thought), TITLES, KETTLE).steps
    assert all("[reasoning_start]" not in step for step in steps)
