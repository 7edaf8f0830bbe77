"""A judge's mark is read in every dress, and what is no mark is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrrec.metrics.marks import read_score


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 85}',
        ' {"score": 85.0} ',
        '{"score": "85"}',
        '{"score": "85/100"}',
        '{"reason": "a {b} c", "score": 85}',
        '```json\n{"score": 85}\n```',
        '```\n{"score": 85}\n```\nI hope this helps.',
        "85",
        '"85"',
        "85.0",
        "**85**",
        "85/100",
        "85 out of 100.",
        "Score: 85/100",
        "**Score:** 85",
        "The score is 85.",
        "Rating = 85%",
        'First I said {"score": 10}, but then: {"score": 85}',
        '<think>Maybe {"score": 10}</think>{"score": 85}',
        'Maybe 10.</think>\n\n{"score": 85}',
        "<think>Score: 10</think>Score: 85",
        'Here is my rating: {"score": 85}',
        'Here is my thought process:\nScore: 10\nHere is my response:\n{"score": 85}',
        "Both like lamps. I give 85 out of 100.",
        "Score: 10/100? No. Score: 85/100",
        "Score: 85\n\nNote: a score of 100 means identical.",
        "Score: 85. A score of 0 would be unrelated.",
        "I considered score 20 at first.\nFinal: 85",
        "The maximum score is 100. I give it 85/100.",
        'text {"score": 85, "parts": {"score": 10}}',
        '{"parts": {"score": 10}, "score": 85}',
        *('{"Score": 85}', '[{"score": 85}]', '{"final": {"score": 85}}', "\\boxed{85}"),
        *("<score>85</score>", "85\n\nThe texts agree.", "score (0-100): 85"),
    ],
)
def test_a_mark_is_read_in_every_dress(text: str) -> None:
    assert read_score(text) == 85


@pytest.mark.parametrize(
    "text",
    [
        *('{"score": 101}', '{"score": -1}', '{"score": 30.5}', '{"score": true}'),
        *('{"score": null}', '{"score": NaN}', '{"score": 1e999}', '{"mark": 30}', "[30]", ""),
        *("Score: 101", "Score: -30", "Score: 30.5", "Score: 8/10", "8/10", "true", "null"),
        *(
            "It has 30 words.",
            "Score: 85-90",
            "Score: 85,5",
            "<think>30",
            '<think>{"score": 30}',
            "[" * 200_000,
            "{" * 200_000,
        ),
        *(
            "Score: 8 5",
            "85 – 90",
            '{"score": "85-90"}',
            "[30, 40]",
            '[{"score": 1}, {"score": 2}]',
        ),
        *('{"score": ' * 90_000, "1" * 5_000, "Score: " + "1" * 5_000, "\u0663\u0660 of them"),
    ],
)
def test_what_is_no_whole_number_from_0_to_100_is_no_mark(text: str) -> None:
    assert read_score(text) is None


@given(st.integers(0, 100), st.text(), st.booleans())
def test_an_object_with_a_score_is_read_whatever_it_says_beside(
    score: int, comment: str, is_first: bool
) -> None:
    row = {"score": score, "comment": comment} if is_first else {"comment": comment, "score": score}
    assert read_score(json.dumps(row)) == score


@given(st.text())
def test_no_text_raises(text: str) -> None:
    score = read_score(text)
    assert score is None or 0 <= score <= 100
