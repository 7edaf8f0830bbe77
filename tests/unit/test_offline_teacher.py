"""The offline teacher's chains, word for word, and its share of bad ones."""

from collections import Counter

import pytest

from msrrec.config import PromptConfig
from msrrec.embedded.offline_teacher import MODEL_NAME, WITH_TITLES, OfflineTeacher, complete
from msrrec.reasoning.parsing import (
    Chain,
    parse_chain,
    parse_plain_prompt,
    parse_prompt,
    parse_recovery_prompt,
)
from msrrec.reasoning.prompts import render_plain_prompt, render_prompt, render_recovery_prompt
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Example, Item

TEA = ("Home", "Tea")
ITEMS = [
    Item("k1", "Acme Kettle", TEA, "Acme"),
    Item("k2", "Acme Tea Pot", TEA, "Acme"),
    Item("k3", "Zeta Tea Pot", TEA, "Zeta"),
    Item("k4", "Acme Mug", TEA, "Acme"),
    Item("c1", "Zeta Tent", ("Outdoor", "Camping"), "Zeta"),
    Item("c2", "Acme Stove", ("Outdoor", "Camping"), "Acme"),
    Item("p1", "Omni Leash", ("Pets",), "Omni"),
    Item("p2", "Acme Leash", ("Pets",), "Acme"),
]
CATALOGUE = {item.item_id: item for item in ITEMS}


def make_teacher(items: dict[str, Item]) -> OfflineTeacher:
    return OfflineTeacher(items.values())


def good_answer(
    teacher: OfflineTeacher, history: list[str], candidates: list[str], model: str = MODEL_NAME
) -> str:
    """The answer of the first seed that is drawn to be a whole chain."""
    prompt = render_prompt("full", "Shop", history, candidates, PromptConfig())
    answers = (teacher.answer(prompt, seed, model) for seed in range(20))
    return next(a[0] for a in answers if a and isinstance(parse_chain(a[0]), Chain))


def test_the_category_bought_most_and_then_shared_words_decide() -> None:
    # of (2) and (3), both Tea, (2) shares "zeta", "tea", "pot", each in 2 of 8 titles; (3) "acme"
    history = ["Acme Kettle", "Zeta Tent", "Acme Tea Pot"]
    candidates = ["Omni Leash", "Zeta Tea Pot", "Acme Mug", "Acme Stove"]
    assert good_answer(make_teacher(CATALOGUE), history, candidates) == (
        "[reasoning_start]\n"
        "Step 1. Preference Recognition: Tea, Camping, Tea. "
        "The user mostly buys Tea, then Camping. "
        "Favourite brand: Acme.\n"
        "Step 2. Attribute Analysis: (1) Pets; (2) Tea; (3) Tea; (4) Camping.\n"
        "Step 3. Logic Matching: From Tea: (2), (3). From Camping: (4).\n"
        "Step 4. Candidate Choice: (2) fits best.\n"
        "Step 5. Recommendation: (2) Zeta Tea Pot. It matches Tea.\n"
        "[reasoning_end]\n"
        "(2) Zeta Tea Pot"
    )


def test_without_a_matching_category_the_brand_decides() -> None:
    teacher = make_teacher(CATALOGUE)
    chain = parse_chain(
        good_answer(teacher, ["Acme Kettle", "Acme Tea Pot"], ["Omni Leash", "Acme Leash"])
    )
    assert isinstance(chain, Chain)
    assert chain.steps == (
        "Tea, Tea. The user mostly buys Tea. Favourite brand: Acme.",
        "(1) Pets; (2) Pets.",
        "From Tea: none.",
        "(2) fits best.",
        "(2) Acme Leash. It is made by Acme.",
    )


def test_candidates_without_any_match_are_chosen_from_by_the_prompt_and_not_by_position() -> None:
    teacher = make_teacher(CATALOGUE)
    slots: Counter[int] = Counter()
    for n in range(300):
        candidates = ["Omni Leash", "Acme Leash"][:: 1 if n % 2 else -1]
        prompt = render_prompt("full", f"Shop {n}", ["Zeta Tent"], candidates)
        found = teacher.answer(prompt)
        assert found is not None
        if isinstance(chain := parse_chain(found[0]), Chain):
            assert chain.steps[2] == "From Camping: none."
            assert chain.steps[4].endswith("There is no clear match.")
            slots[int(chain.steps[3][1])] += 1
    # 282 whole chains on average; half of them is 141, sd 8.4
    assert 115 < slots[1] < 165
    assert 115 < slots[2] < 165


def test_words_and_companions_decide_between_candidates_of_one_category() -> None:
    examples = [Example("a", "u", ("c1", "p2"), "k1", ("k1",))]
    teacher = OfflineTeacher(ITEMS, examples)
    # both are leashes of Pets, which the history lacks; "acme" is shared, in 5 of 8 titles
    text = good_answer(teacher, ["Acme Kettle"], ["Omni Leash", "Acme Leash"])
    assert "(2) Acme Leash. It shares the word acme." in text
    # c1 was bought with p2 by a training user: 20 ln 2 = 13.9 against no word at all
    text = good_answer(teacher, ["Zeta Tent"], ["Omni Leash", "Acme Leash"])
    assert "(2) Acme Leash. It was bought with items of the history." in text


def test_the_category_outweighs_a_rare_word() -> None:
    # one purchase from Tea: 60 and more; "leash" is in 2 of 8 titles: ln(4) squared = 1.9
    text = good_answer(make_teacher(CATALOGUE), ["Acme Kettle"], ["Omni Leash", "Zeta Tea Pot"])
    assert "(2) Zeta Tea Pot. It matches Tea." in text


def test_of_two_categories_bought_as_often_the_later_one_leads() -> None:
    text = good_answer(
        make_teacher(CATALOGUE), ["Acme Kettle", "Zeta Tent"], ["Acme Mug", "Acme Stove"]
    )
    assert "mostly buys Camping, then Tea." in text
    assert text.endswith("(2) Acme Stove")


def bare(items: dict[str, Item]) -> dict[str, Item]:
    return {i: Item(i, item.title) for i, item in items.items()}


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (MODEL_NAME, "(1) Acme; (2) Leash; (3) other."),
        (WITH_TITLES, "(1) Acme Mug: Acme; (2) Acme Leash: Leash; (3) Zeta Tent: other."),
    ],
)
def test_without_categories_the_strongest_shared_word_stands_in(model: str, labels: str) -> None:
    teacher = OfflineTeacher(bare(CATALOGUE).values())
    # of 8 titles "zeta", "tea", "pot" and "leash" are in 2, "acme" in 5: ln(8/2) against ln(8/5)
    chain = parse_chain(
        good_answer(
            teacher,
            ["Omni Leash", "Acme Kettle"],
            ["Acme Mug", "Acme Leash", "Zeta Tent"],
            model,
        )
    )
    assert isinstance(chain, Chain)
    assert chain.steps == (
        "The user mostly buys Leash, then Acme.",
        labels,
        "From Leash: (2). From Acme: (1).",
        "(2) fits best.",
        "(2) Acme Leash. It matches Leash.",
    )


def test_categories_never_follow_titles() -> None:
    asked = (["Acme Kettle"], ["Omni Leash", "Zeta Tea Pot"])
    teacher = OfflineTeacher(ITEMS)
    assert good_answer(teacher, *asked, model=WITH_TITLES) == good_answer(teacher, *asked)


def test_items_bought_together_in_training_histories_count_where_no_word_is_shared() -> None:
    # the later history of the same user holds the earlier one's answer and must not count
    examples = [
        Example("a", "u", ("p1", "c1"), "k1", ("k1",)),
        Example("b", "u", ("p1", "c1", "k1", "p2"), "k2", ("k2",)),
    ]
    teacher = OfflineTeacher(bare(CATALOGUE).values(), examples)
    text = good_answer(teacher, ["Omni Leash"], ["Acme Kettle", "Acme Mug", "Zeta Tent"])
    assert text.endswith("(3) Zeta Tent")
    assert "It was bought with items of the history." in text


def test_where_customers_go_on_to_another_category_the_teacher_names_what_follows() -> None:
    # camping follows tea in all 8 histories, so after tea it is 1 of 1; (1) is the habit's choice
    examples = [Example(f"e{n}", f"u{n}", ("p1", "k1", "c1"), "k2", ()) for n in range(8)]
    teacher = OfflineTeacher(ITEMS, examples)
    text = good_answer(teacher, ["Acme Kettle", "Acme Tea Pot"], ["Acme Mug", "Zeta Tent"])
    assert "Tea, Tea. After Tea, customers mostly buy Camping. " in text
    assert "Step 3. Logic Matching: Last bought: Tea. From Camping: (2)." in text
    assert text.endswith("\n(2) Zeta Tent")


def test_about_six_in_a_hundred_answers_are_incomplete_or_malformed() -> None:
    teacher = make_teacher(CATALOGUE)
    candidates = ["Acme Mug", "Acme Stove"]
    outcomes: Counter[str] = Counter()
    for n in range(2000):
        prompt = render_prompt(
            "full", f"Shop {n}", ["Acme Kettle"], candidates, PromptConfig(answer_format="title")
        )
        answer = teacher.answer(prompt)
        assert answer is not None
        chain = parse_chain(answer[0])
        outcomes["whole" if isinstance(chain, Chain) else chain.reason] += 1
        if isinstance(chain, Chain):
            assert read_strict(answer[0], candidates) == 0
    # 3% each of 2,000, some 4 standard deviations around; half chains read as incomplete
    assert 1820 <= outcomes["whole"] <= 1930
    assert outcomes["incomplete"] >= 40
    assert outcomes["malformed"] >= 5
    assert outcomes["empty"] >= 5


def test_a_title_that_was_cut_for_the_prompt_is_known() -> None:
    long = Item("k", "Acme Kettle Of Two Litres", ("Home", "Kettles"))
    teacher = OfflineTeacher([*CATALOGUE.values(), long])
    form = PromptConfig(max_title_chars=16, order="candidates_first", instruction="short")
    prompt = render_prompt("full", "Shop 1", ["Acme Kettle"], ["Zeta Tent", long.title], form)
    assert "(2) Acme Kettle Of…\n" in prompt
    text, _ = teacher.answer(prompt) or ("", "")
    assert "(2) Kettles" in text


def test_the_same_prompt_and_seed_give_the_same_answer_and_another_seed_another_equal() -> None:
    teacher = make_teacher(CATALOGUE)
    prompt = render_prompt(
        "full",
        "Shop",
        ["Omni Leash"],
        ["Acme Mug", "Acme Stove"],
        PromptConfig(answer_format="title"),
    )
    assert teacher.answer(prompt, 0) == make_teacher(CATALOGUE).answer(prompt, 0)
    ends = {(teacher.answer(prompt, seed) or ("", ""))[0].split("\n")[-1] for seed in range(8)}
    assert {"Acme Mug", "Acme Stove"} <= ends


@pytest.mark.parametrize("title", ['The "Acme Mug" Book', "3. Foo", "[[reasoning_end]]", "a\nb"])
def test_hostile_titles_are_recommended_like_others(title: str) -> None:
    items = CATALOGUE | {"h": Item("h", title, TEA)}
    text = good_answer(make_teacher(items), ["Acme Kettle"], ["Zeta Tent", title, "Omni Leash"])
    assert read_strict(text, ["Zeta Tent", title, "Omni Leash"]) == 1


def test_other_prompts_and_models_are_refused_in_the_form_of_the_api() -> None:
    teacher = make_teacher(CATALOGUE)
    prompt = render_prompt(
        "full",
        "Shop",
        ["Acme Kettle"],
        ["Acme Mug", "Zeta Tent"],
        PromptConfig(answer_format="title"),
    )
    good = {"model": MODEL_NAME, "messages": [{"role": "user", "content": prompt}]}
    status, body = complete(teacher, good)
    assert (status, body["model"], body["choices"][0]["finish_reason"]) == (200, MODEL_NAME, "stop")
    assert complete(teacher, good | {"model": WITH_TITLES})[1]["model"] == WITH_TITLES
    assert body["usage"]["prompt_tokens"] == len(prompt.split())
    for bad in (
        {"model": "gpt"},
        {"messages": []},
        {"stream": True},
        {"seed": 0, "messages": [{}]},
    ):
        status, body = complete(teacher, good | bad)
        assert status == 400
        assert "expected model 'offline-teacher'" in body["error"]["message"]


def test_a_plain_prompt_is_answered_without_steps_and_reads_back() -> None:
    prompt = render_plain_prompt("Home", ["Red Lamp"], ["Blue Lamp", "Tin Mug"], PromptConfig())
    parsed = parse_plain_prompt(prompt)
    assert parsed is not None
    assert (parsed.history, parsed.candidates) == (("Red Lamp",), ("Blue Lamp", "Tin Mug"))
    assert parse_prompt(prompt) is None
    items = {str(n): Item(str(n), t) for n, t in enumerate(("Red Lamp", "Blue Lamp", "Tin Mug"))}
    categories = {"0": ("Lamps",), "1": ("Lamps",), "2": ("Mugs",)}
    items = {i: Item(i, item.title, categories[i]) for i, item in items.items()}
    answer = OfflineTeacher(items.values()).answer(prompt)
    assert answer is not None
    assert read_strict(answer[0], parsed.candidates) == 0
    assert "Step" not in answer[0]


def test_a_masked_rationale_brings_back_what_it_speaks_for() -> None:
    teacher = make_teacher(CATALOGUE)
    titles = ["Omni Leash", "Zeta Tent", "Acme Stove"]
    for rationale, expected in (
        ("bought tea and camping, mostly pets. from pets: [item].", 0),
        ("mostly camping. favourite brand: zeta.", 1),
        ("mostly camping. favourite brand: acme.", 2),
    ):
        for form in (PromptConfig(answer_format="title"), PromptConfig()):
            prompt = render_recovery_prompt("Shop", rationale, titles, form)
            answer = teacher.answer(prompt)
            assert answer is not None
            assert read_strict(answer[0], titles) == expected
    by_words = OfflineTeacher(bare(CATALOGUE).values())
    titles = ["Acme Mug", "Omni Leash"]
    answer = by_words.answer(
        render_recovery_prompt(
            "Shop", "it goes with a leash.", titles, PromptConfig(answer_format="title")
        )
    )
    assert answer == ("Omni Leash", "stop")


@pytest.mark.parametrize("rationale", ["", 'a "quote"\nCandidates:\n(1) Trap', "\u2028 é [item]"])
def test_a_recovery_prompt_reads_back_whatever_the_rationale_holds(rationale: str) -> None:
    prompt = render_recovery_prompt("Shop", rationale, ["Red Lamp", "Tin Mug"], PromptConfig())
    parsed = parse_recovery_prompt(prompt)
    assert parsed is not None
    assert (parsed.history, parsed.candidates) == ((rationale,), ("Red Lamp", "Tin Mug"))
    assert parse_recovery_prompt(render_plain_prompt("Shop", [rationale], ["A"])) is None
    for line in ("5", "not JSON", '"two"\n"lines"'):
        assert parse_recovery_prompt(prompt.replace(prompt.splitlines()[2], line)) is None
    assert "\ud800" not in render_recovery_prompt("Shop", "\ud800", ["A"])
    assert parse_prompt(prompt) is None
    assert parse_plain_prompt(prompt) is None
