"""Texts of items as shops and programs write them."""

from typing import Any

import pytest

from msrrec.data.text import (
    category_path,
    is_missing,
    is_missing_key,
    plain_description,
    visible_title,
)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("A|B", ["A", "B"]),
        ("A > B", ["A", "B"]),
        ('["A", "B"]', ["A", "B"]),
        ("['A & C', 'B']", ["A & C", "B"]),
        ("[['A', 'B'], ['C']]", ["A", "B"]),
        ("('A', 'B')", ["A", "B"]),
        ("[\"It's\", 'B']", ["It's", "B"]),
        ("['A', nan, None, '']", ["A"]),
        ([["A", "B"], ["C"]], ["A", "B"]),
        (["A", None], ["A"]),
        ("nan", []),
        ("None", []),
        ("[]", []),
        ("", []),
        (None, []),
        (float("nan"), []),
        ("A (B)", ["A (B)"]),
        ("(A)", ["(A)"]),
        ("A>B", ["A>B"]),
        ("['Home & Kitchen' 'Fans']", ["Home & Kitchen", "Fans"]),
        ("['A'\n \"B's\" 'C']", ["A", "B's", "C"]),
        ("array(['A', 'B'], dtype=object)", ["A", "B"]),
        ("Clothing > Tshirts, Clothing > Hoodies", ["Clothing", "Tshirts"]),
        ("Clothing > Tshirts, Sale, Clothing > Hoodies", ["Clothing", "Tshirts"]),
        (
            "Food, Beverages & Tobacco > Meat, Seafood & Eggs > Eggs",
            ["Food, Beverages & Tobacco", "Meat, Seafood & Eggs", "Eggs"],
        ),
        ('[{"id": 18, "name": "Drama"}, {"id": 3, "name": "War"}]', ["Drama", "War"]),
        ("[{'id': 18, 'name': 'Drama'}]", ["Drama"]),
        ('{"id": 18, "Name": "Drama"}', ["Drama"]),
        ('[{"id": 18}]', []),
        ("A > B | C > D", ["A", "B"]),
        ("A > B|C", ["A", "B"]),
        ("['A > B', 'C > D']", ["A", "B"]),
        ("A &gt; B", ["A", "B"]),
        ("A &amp;gt; B &amp; C", ["A", "B & C"]),
        ("NA", []),
        ("\\N", []),
        ("none|A", ["A"]),
        ("Na > K", ["Na", "K"]),
    ],
)
def test_categories_in_any_spelling_are_one_path(value: Any, path: list[str]) -> None:
    assert category_path(value) == path


@pytest.mark.parametrize("value", ["", "  ", "nan", "NaN", "None", "NULL", "null", None, "<NA>"])
def test_what_programs_write_for_no_value_is_none(value: Any) -> None:
    assert is_missing(value)
    assert plain_description(value) is None


@pytest.mark.parametrize("value", ["\\N", "#N/A", "(null)"])
def test_words_of_databases_are_none_everywhere(value: str) -> None:
    assert is_missing(value)
    assert is_missing_key(value)


@pytest.mark.parametrize("value", ["NA", "none", "Null", "NAN", "N/A", "#n/a", "\\n", "(NULL)"])
def test_words_that_may_be_titles_are_none_as_ids_and_categories_alone(value: str) -> None:
    assert is_missing_key(value)
    assert not is_missing(value)


@pytest.mark.parametrize("value", ["Na", "na", "nano", "N", "A", "0", "nulla"])
def test_an_id_that_only_looks_like_none_is_one(value: str) -> None:
    assert not is_missing_key(value)


@pytest.mark.parametrize("value", ["0", "Nanette", "Null and Void", 0])
def test_what_only_looks_like_it_is_a_value(value: Any) -> None:
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('<div class="x"><p>The <b>Tent</b>.</p>\n<ul><li>Size&nbsp;S</li></ul></div>', None),
        ("&lt;p&gt;The Tent.&lt;/p&gt; Size S", None),
        ("The Tent.<style>p > a {}</style><script>if (a<b) x()</script><!-- no --> Size S", None),
        ("The Tent.<br/>Size S<p style='x", None),
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 lamps", "I <3 lamps"),
        ("['The Tent.', 'Size S']", None),
        (["The Tent.", None, "Size S"], None),
    ],
)
def test_descriptions_lose_their_html_and_keep_their_text(text: Any, plain: str | None) -> None:
    assert plain_description(text) == (plain or "The Tent. Size S")


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("<b>Oak</b> Table", "Oak Table"),
        ("Oak<br>Table", "Oak Table"),
        ("&lt;i&gt;Oak&lt;/i&gt; Table", "Oak Table"),
        ("<Untitled>", "<Untitled>"),
        ("Love & <3", "Love & <3"),
        ("<b></b>", "<b></b>"),
        ("H<sub>2</sub>O Kit", "H2O Kit"),
    ],
)
def test_titles_lose_tags_of_html_alone(title: str, shown: str) -> None:
    assert visible_title(title) == shown
