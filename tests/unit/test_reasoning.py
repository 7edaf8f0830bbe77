import pytest

from msrrec.data.dataset import Dataset
from msrrec.inference.fusion import SideOutput
from msrrec.metrics.claims import Truth, check_claims
from msrrec.metrics.reasoning import (
    ReasoningMetrics,
    cited_titles,
    is_grounded,
    reasoning_metrics,
)
from msrrec.metrics.statistics import wilson
from msrrec.reasoning.prompts import render_reasoning
from msrrec.schema import Example, Item

TITLES = {"h": "Old Radio Set", "a": "Red Lamp, Large", "b": "Blue Kettle", "c": "C++ (2nd ed.)"}
DATASET = Dataset("", {}, {k: Item(k, v) for k, v in TITLES.items()})
EXAMPLE = Example("e", "u", ("h",), "a", ("a", "b", "c"))


def row(*steps: str, item_id: str | None = "a", side: str = "user") -> SideOutput:
    reasoning = render_reasoning("user", steps) if len(steps) == 3 else " ".join(steps)
    index = None if item_id is None else EXAMPLE.candidates.index(item_id)
    return SideOutput(side, "", reasoning, index, None, 0)


def metrics(*rows: SideOutput) -> ReasoningMetrics:
    found = reasoning_metrics(DATASET.items, [EXAMPLE] * len(rows), rows)
    assert found is not None
    return found


def test_a_chain_is_complete_with_all_its_steps() -> None:
    found = metrics(row("Likes lamps.", "Fits.", "Red Lamp, Large."), row("No steps at all."))
    assert found.complete.value == 0.5
    assert found.num_users == 2


def test_cited_titles_are_looked_up_in_history_and_candidates() -> None:
    steps = (
        'Owns the "Old Radio Set" and a "Golden Toaster Deluxe".',
        "The **Red Lamp** fits.",  # shortened
        '"Red Lamp, Large" it is.',
    )
    # Three in quotes, one in bold, and what the last step recommends: 4 of 5 exist
    found = metrics(row(*steps))
    assert found.num_cited == 5
    assert found.grounded.value == pytest.approx(4 / 5)


def test_a_recommended_item_that_nobody_listed_is_not_grounded() -> None:
    found = metrics(row("Likes lamps.", "Fits.", "The Sofa Bed."))
    assert (found.num_cited, found.grounded.value) == (1, 0.0)
    by_number = metrics(row("Likes lamps.", "Fits.", "(1) Sofa Bed."))
    assert by_number.grounded.value == 0.0


def test_headings_and_single_words_are_no_titles() -> None:
    text = 'The **Item Selection:** says "nice" of **"Blue Kettle"** and “Red Lamp, Large”.'
    assert cited_titles(text) == ["Blue Kettle", "Red Lamp, Large"]


@pytest.mark.parametrize(
    ("cited", "expected"),
    [
        ("red lamp, LARGE.", True),
        ("Lamp, Large", True),
        ("ed Lamp", False),
        ("C++ (2nd ed.)", True),
        ("Red Lamp, Small", False),
        ("!!!", False),
        (".*", False),
    ],
)
def test_words_from_within_a_title_are_grounded(cited: str, expected: bool) -> None:
    assert is_grounded(cited, list(TITLES.values())) is expected


def test_a_reasoning_that_endorses_another_item_than_the_answer_contradicts_it() -> None:
    lamp = ("Likes lamps.", "Fits.", "Red Lamp, Large.")
    found = metrics(
        row(*lamp, item_id="a"),
        row(*lamp, item_id="a"),
        row(*lamp, item_id="b"),  # the contradiction
        row(*lamp, item_id=None),  # no answer, no contradiction
        row("Likes lamps.", "Fits.", "Something.", item_id="b"),  # endorses nothing
    )
    assert found.contradicted.value == pytest.approx(1 / 3)


def test_sentences_that_repeat_over_users_are_not_unique() -> None:
    found = metrics(row("Good. Bad."), row("Good. Ugly!"))
    assert found.unique_sentences == pytest.approx(3 / 4)
    assert found.num_words.value == 2.0


def test_lists_and_labels_of_categories_are_held_against_the_catalogue() -> None:
    kinds = {"h": "Audio", "a": "Lights", "b": "Kitchen", "c": "Books"}
    items = {k: Item(k, v, ("Home", kinds[k])) for k, v in TITLES.items()}
    steps = (
        "(1) Lights; (2) Audio; (3) Books.",  # the second is of the kitchen
        "From Lights: (1). From Kitchen: none. From Audio: none. From Moon: (1).",
        "(1) Red Lamp, Large. It matches Lights.",
    )
    found = reasoning_metrics(items, [EXAMPLE], [row(*steps)])
    assert found is not None
    assert (found.num_labels, found.num_lists) == (3, 3)  # nobody knows the category Moon
    assert found.true_labels is not None
    assert found.true_labels.value == pytest.approx(2 / 3)
    assert (found.named_labels, found.num_to_label) == (wilson(2, 3), 3)  # the kitchen is missed
    assert found.true_lists is not None
    assert found.true_lists.value == pytest.approx(2 / 3)
    assert metrics(row(*steps)).true_lists is None  # a catalogue without categories


@pytest.mark.parametrize(
    ("step", "labels", "named"),
    [
        ("(1) Books: Fiction; (2) Lamps; (3) Other.", [True, True], [True, True]),
        ("(1) Books: Fiction.\n(2) Lamps.", [True, True], [True, True]),
        ("(1) other; (2) Books: Fiction.", [False], [False, False]),
        ("(1) Sun; (2) Moon.", [], []),  # of which nothing is a category
        (f"({'1' * 5000}) Lamps; (2) Lamps.", [True], [False, True]),
    ],
)
def test_a_category_is_read_whole_and_what_is_none_is_not_missed(
    step: str, labels: list[bool], named: list[bool]
) -> None:
    kinds = {"a": "Books: Fiction", "b": "Lamps", "c": "Other"}
    truth = Truth.of({key: Item(key, key, (name,)) for key, name in kinds.items()})
    found = check_claims(step, Example("u", "u", ("a",), "a", ("a", "b", "c", "gone")), truth)
    assert (list(found.labels), list(found.named)) == (labels, named)


@pytest.mark.parametrize(
    ("step", "lists", "labels", "named"),
    [
        ("From Lamp: (1), (3).", [True], [], []),
        ("From Lamp: (1).", [True], [], []),  # the other one may go by a rarer word
        ("From Lamp: (1), (2).", [False], [], []),
        ("From Lamp: none.", [False], [], []),
        ("From Tent: none. From Unheard: (1).", [True], [], []),  # no title has the latter
        # No history has a shoe, so only the two lamps should be named.
        ("(1) Lamp; (2) Shoe; (3) lamp.", [], [True, False, True], [True, True]),
        ("(2) Lamp; (7) Lamp; (3) other.", [], [False, False], [False, False]),
        ("(1) other; (2) other; (3) Lamp.", [], [True], [False, True]),
        ("(1) other; (2) other; (3) other.", [], [], [False, False]),
        ("(1) fits best.", [], [], []),  # which labels nothing
        ("(1) Red Oak: Lamp. It matches Lamp.", [], [], []),  # a title alone
        (
            "(1) Red Lamp: Lamp; (2) The No. 1; Shoe: other; (3) A: Oak lamp: other.",
            [],
            [True],
            [True, False],
        ),
        ("(1) Red Lamp (2 pcs.): other; (3) Lamp (3) set: Lamp.", [], [True], [False, True]),
    ],
)
def test_words_are_held_against_titles_where_there_are_no_categories(
    step: str, lists: list[bool], labels: list[bool], named: list[bool]
) -> None:
    titles = {
        "h": "The Lamp-Shade, other",
        "a": "Red Lamp",
        "b": "The Blue Shoe",  # shares an article alone
        "c": "Oak lamp",
        "d": "Tent",
    }
    truth = Truth.of({key: Item(key, title) for key, title in titles.items()})
    found = check_claims(step, Example("u", "u", ("h",), "a", ("a", "b", "c")), truth)
    assert (list(found.lists), list(found.labels), found.wants) == (lists, labels, ())
    assert list(found.named) == named


@pytest.mark.parametrize(
    ("step", "is_true"),
    [
        ("The user mostly buys Audio.", True),
        ("The user mostly buys Audio, then Moon. Favourite brand: Koda.", True),
        ("The user mostly buys Books.", False),
        ("The user mostly buys Moon.", None),  # nobody knows this category
        ("After Audio, customers mostly buy Books, then Kitchen.", True),
        ("After Audio, customers mostly buy Books.", True),
        ("After Audio, customers mostly buy Kitchen, then Books.", False),
        ("After Books, customers mostly buy Audio.", None),  # the rules say nothing
        ("The user likes Audio.", None),
    ],
)
def test_what_is_said_of_wants_is_held_against_history_and_rules(
    step: str, is_true: bool | None
) -> None:
    kinds = {"h": "Audio", "a": "Lights", "b": "Kitchen", "c": "Books"}
    items = {k: Item(k, v, ("Home", kinds[k])) for k, v in TITLES.items()}
    rules = {"Audio": ("Books", "Kitchen")}
    steps = (step, "(1) Lights.", "(1) Red Lamp, Large. It matches Lights.")
    found = reasoning_metrics(items, [EXAMPLE], [row(*steps)], rules)
    assert found is not None
    share = None if found.true_wants is None else bool(found.true_wants.value)
    assert (found.num_wants, share) == (int(is_true is not None), is_true)


def test_outputs_without_a_chain_have_no_figures() -> None:
    assert reasoning_metrics(DATASET.items, [EXAMPLE], [row("x", side="direct")]) is None
    assert reasoning_metrics(DATASET.items, [EXAMPLE], [row("x", side="none")]) is None
    assert reasoning_metrics(DATASET.items, [EXAMPLE], [row("x", side="random")]) is None
    assert metrics(row("")).unique_sentences is None
