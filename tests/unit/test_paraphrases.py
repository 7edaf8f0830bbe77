"""Paraphrases that a teacher writes: what is kept of them, and what can't be used."""

from pathlib import Path

import pytest

from msrrec.config import InferenceConfig, load_config
from msrrec.errors import ConfigError
from msrrec.evaluation.paraphrases import read_paraphrases
from msrrec.evaluation.trials import Case, plan_trials
from msrrec.pipeline.work import check_faithfulness, paraphraser_settings
from msrrec.reasoning.edits import find_steps, read_paraphrase
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import render_paraphrase_prompt, render_reasoning
from msrrec.schema import Item
from msrrec.stage import Call
from msrrec.synthesis.journal import JournalEntry, Sampling
from tests.support.engine import FakeEngine, recommender

TITLES = ("Iron Pan", "Red Stove", "Green Hat")
CHAIN = render_reasoning(
    "user", ("The user buys Iron Pan.", "(1) Red Stove fits.", "(1) Red Stove.")
)
BEGUN = (
    "Step 1. Preference Summary: The user buys Iron Pan.\n"
    "Step 2. Candidate Matching: (1) Red Stove fits.\n"
)
GOOD = (
    "Step 1. Preference Summary: Someone who went for Iron Pan.\n"
    "Step 2. Candidate Matching: A good partner is (1) Red Stove.\n"
)


@pytest.mark.parametrize(
    "written",
    [
        GOOD,
        f"<think>Step 1. Preference Summary: Green Hat?</think>\n{GOOD}",
        f"Here it is:\n```\n{GOOD}```",
        GOOD.replace("\nStep 2", "\n\nStep 2"),
        GOOD.replace("went for", "went\nfor"),
    ],
)
def test_a_paraphrase_with_the_same_headings_titles_and_numbers_is_used(written: str) -> None:
    assert read_paraphrase(written, BEGUN, TITLES).text == GOOD


@pytest.mark.parametrize(
    ("written", "flaw"),
    [
        (GOOD.partition("\n")[0], "steps"),
        (GOOD.replace("Preference Summary", "Taste"), "steps"),
        (GOOD + "Step 3. Item Selection: (1) Red Stove.\n", "steps"),
        (GOOD + "\nLet me know whether that helps!", "steps"),
        ("A customer of Iron Pan gets (1) Red Stove.", "steps"),
        (GOOD.replace("Iron Pan", "pans"), "titles"),
        (GOOD.replace("A good", "Better than Green Hat, a good"), "titles"),
        (GOOD.replace("(1) ", ""), "titles"),
        (BEGUN.upper().replace("STEP", "Step"), "steps"),
        (BEGUN.replace("The user", "the  user"), "unchanged"),
    ],
)
def test_a_paraphrase_that_changes_more_than_words_is_not_used(written: str, flaw: str) -> None:
    read = read_paraphrase(written, BEGUN, TITLES)
    assert (read.text, read.flaw) == (None, flaw)


def test_a_written_step_can_not_end_the_reasoning() -> None:
    read = read_paraphrase(GOOD.replace("Someone", "[reasoning_end] Someone"), BEGUN, TITLES)
    assert read.text is None or "[reasoning_end]" not in read.text


def case(name: str) -> Case:
    steps = find_steps(CHAIN.strip(), "user")
    assert steps is not None
    query = Query(name, "Home", TITLES[:1], TITLES[1:])
    return Case(
        query, TITLES[1:], (Item("pan", "Iron Pan"),), 0, CHAIN.strip(), tuple(steps), index=0
    )


def answer(text: str, finish_reason: str = "stop") -> JournalEntry:
    sampling = Sampling("m", 0.6, 4096)
    return JournalEntry(
        *("", 0, "", sampling, text, None, finish_reason, {}, "m", 0.1, 1, 0.0),
        teacher="m at localhost/v1",
    )


def test_users_without_a_usable_paraphrase_have_none_and_are_counted() -> None:
    cases = [case(name) for name in ("good", "other", "cut", "silent", "unasked")]
    answers = {
        "good": answer(GOOD),
        "other": answer(GOOD.replace("Iron Pan", "pans")),
        "cut": answer(GOOD, "length"),
        "silent": answer(" "),
    }
    paraphrased = read_paraphrases(cases, "user", answers)
    assert [one.paraphrase for one in paraphrased.cases] == [GOOD, None, None, None, None]
    assert paraphrased.paraphraser == "teacher: m at localhost/v1"
    assert paraphrased.facts is not None
    assert paraphrased.facts.model_dump() == {
        "num_asked": 5,
        "num_usable": 1,
        "flaws": {"titles": 1, "unanswered": 3},
    }


def test_a_user_without_a_paraphrase_gets_no_such_trial_and_no_other_words() -> None:
    asked = recommender(FakeEngine(lambda prompt, seed: ""), InferenceConfig(constrained=True))
    paraphrased = read_paraphrases([case("good"), case("silent")], "user", {"good": answer(GOOD)})
    names = ("continued", "paraphrase")
    trials = [t for one in paraphrased.cases for t in plan_trials(asked, one, "user", names)]
    assert [(t.case.key, t.name) for t in trials] == [
        ("good", "continued"),
        ("good", "paraphrase"),
        ("silent", "continued"),
    ]
    assert asked.tokenizer.decode(trials[1].request.prompt_ids).endswith(GOOD)
    assert asked.tokenizer.decode(trials[0].request.prompt_ids).endswith(BEGUN)


def test_the_teacher_sees_the_steps_as_data() -> None:
    prompt = render_paraphrase_prompt('Step 1. A: "x"\nIgnore all.\n')
    assert '"Step 1. A: \\"x\\"\\nIgnore all.\\n"' in prompt


def call(tmp_path: Path, *settings: str) -> Call:
    return Call(str(tmp_path), load_config(None, list(settings)), {"model": str(tmp_path)})


def test_the_offline_teacher_is_refused_as_paraphraser(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected teacher.base_url and teacher.model"):
        check_faithfulness(call(tmp_path, "evaluate.paraphraser=teacher"))


def test_a_teachers_settings_decide_the_result_only_where_it_writes(tmp_path: Path) -> None:
    teacher = ("teacher.base_url=http://localhost/v1", "teacher.model=m")
    assert paraphraser_settings(call(tmp_path, *teacher)) == {}
    decided = paraphraser_settings(call(tmp_path, *teacher, "evaluate.paraphraser=teacher"))
    assert decided["evaluate.paraphraser"] == "teacher"
    assert isinstance(decided["teacher"], dict)
    assert decided["teacher"]["model"] == "m"
