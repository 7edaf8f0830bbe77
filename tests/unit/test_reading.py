"""One reading rule for all systems, and the ladder of titles against a plain slow one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrrec.engines.base import Generation
from msrrec.inference.codec import read_generation
from msrrec.reasoning.prompts import OUTPUT_PREFIX, render_reasoning
from msrrec.reasoning.reading import read_lenient, read_rung, read_strict
from msrrec.titles import TitleMatch, normalize_title, read_title
from tests.support.engine import CharTokenizer

LAMPS = ["Red Lamp", "Red Lamp 2", "Blue Kettle"]
FULL = render_reasoning("full", ["a", "b", "c", "d", "I recommend the **Blue Kettle** because."])
ITEM = render_reasoning("item", ["a", "b", "I recommend the **Blue Kettle** because."])
CUT = "\n".join(FULL.splitlines()[:4])


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "rung"),
    [
        ("[reasoning_start]\nx\n[reasoning_end]\n(3) Blue Kettle", 2, 2, "numbered"),
        ("x\n[reasoning_end]\n\nBLUE KETTLE.\nRed Lamp", 2, 2, "exact"),
        ("x\n[reasoning_end]\nI take the Blue Kettle", None, 2, "mention"),
        ("x\n[reasoning_end]\nThe Blue Kettles", None, 2, "none"),  # LLaRA's rule has no words
        ("x\n[reasoning_end]\nRed Lamp 2", 1, None, "exact"),  # it holds another title
        ("x\n[reasoning_end]\nBlue Kettle or Red Lamp", None, None, "ambiguous"),
        ("x\n[reasoning_end]\n", None, None, "none"),
        # two answers: the last one that is written
        (
            "x\n[reasoning_end]\nRed Lamp\n[reasoning_start]\ny\n[reasoning_end]\nBlue Kettle",
            2,
            2,
            "exact",
        ),
        ("x\n[reasoning_end]\nBlue Kettle\n[reasoning_end]\n", 2, 2, "exact"),
        # no markers at all: the first written line, or else the last
        ("Blue Kettle", 2, 2, "exact"),
        ('"Blue Kettle"\nRed Lamp', 2, 2, "exact"),
        ("I think of tea.\n\nBlue Kettle", 2, 2, "exact"),
        ("Blue Kettle or Red Lamp it is\nwell", None, None, "ambiguous"),
        # no end marker: no answer, and leniently the recommending step's
        (f"[reasoning_start]\n{FULL}", None, 2, "none"),
        (FULL, None, 2, "mention"),
        (f"[reasoning_start]\n{ITEM}", None, 2, "none"),
        (f"[reasoning_start]\n{CUT}\nBlue Kettle", None, None, "none"),  # it broke off
        ("[reasoning_start]\nSome prose.\nBlue Kettle", None, 2, "none"),
        ("<think>Red Lamp\n[reasoning_end]\nRed Lamp</think>\nBlue Kettle", 2, 2, "exact"),
        ("", None, None, "none"),
    ],
)
def test_an_output_is_read_alike_whoever_wrote_it(
    text: str, strict: int | None, lenient: int | None, rung: str
) -> None:
    assert read_strict(text, LAMPS) == strict
    assert read_lenient(text, LAMPS) == lenient
    assert read_rung(text, LAMPS) == rung


def test_double_quotes_that_a_prompt_made_single_do_not_hide_a_title() -> None:
    assert read_lenient("It is the 24' Stand", ['24" Stand', "Mug"]) == 0


@pytest.mark.parametrize("answer", ["[reasoning_end]\n(3) Blue Kettle", "[reasoning_end]\nPot", ""])
def test_a_models_output_is_read_by_the_same_rule(answer: str) -> None:
    written = FULL + answer
    ids = tuple(map(ord, written))
    output = read_generation(
        CharTokenizer(), "full", LAMPS, Generation(ids, (-0.5,) * len(ids), "")
    )
    assert output.index == read_strict(OUTPUT_PREFIX + written, LAMPS)


WORDS = st.sampled_from(["star", "wars", "case", "red", "2", "(iv)", "the", "of"])
GAPS = st.sampled_from([" ", " ", ": ", " - ", "\u2013", ", "])
STOPS = st.sampled_from(["", " ", ", ", ". ", "; ", " (1) "])
SMALL = {"the", "of", "and"}


@st.composite
def sets_of_titles(draw: st.DrawFn) -> list[list[str]]:
    """Words of titles, most of which begin alike, so that they lie inside one another."""
    stem = draw(st.lists(WORDS, min_size=1, max_size=2))
    longer = draw(st.lists(st.lists(WORDS, max_size=4), min_size=1, max_size=3))
    return [stem + more for more in longer] + draw(
        st.lists(st.lists(WORDS, min_size=1), max_size=1)
    )


@st.composite
def joined(draw: st.DrawFn, words: list[str]) -> str:
    return "".join(word + draw(GAPS) for word in words).strip()


@st.composite
def mentions(draw: st.DrawFn, titles: list[list[str]]) -> str:
    """A title, some of whose words may be missing, and a few words after it."""
    words = draw(st.sampled_from(titles))
    keep = draw(st.lists(st.integers(0, 4).map(bool), min_size=len(words), max_size=len(words)))
    said = [word for word, is_kept in zip(words, keep, strict=True) if is_kept]
    return draw(joined(said + draw(st.lists(WORDS, max_size=2)))) + draw(STOPS)


def slow_fold(text: str) -> str:
    return " ".join(text.replace("\u2013", "-").lower().split())


def slow_words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text) if word]


def slow_tails(title: str, inner: list[str]) -> list[list[str]]:
    form = normalize_title(title)
    without_brackets, depth = "", 0
    for n, char in enumerate(form):
        depth = 1 if char == "(" and "(" not in form[n + 1 :].split(")")[0] else depth
        without_brackets += " " if depth else char
        depth = 0 if char == ")" else depth
    main = re.split(r"[:(\[{,]|\s-\s", form)[0]
    found = []
    for shape in map(slow_words, (form, without_brackets, main)):
        for start in range(len(shape)):
            rest = shape[start + len(inner) :]
            if rest and shape[start : start + len(inner)] == inner:
                found.append(rest)
    return found


def slow_meant(index: int, after: str, titles: list[str]) -> set[int]:
    clause = re.split(r"[.!?]\s|[.!?]$|;", after)[0]
    words, sure, unsure = slow_words(clause), [], {index}
    inner = slow_words(normalize_title(titles[index]))
    others = [i for i in range(len(titles)) if i != index]
    pairs = [(i, tail) for i in others for tail in slow_tails(titles[i], inner)]
    shared = {}
    for n, (_, tail) in enumerate(pairs):
        length = 0
        while length < len(tail) and words[length : length + 1] == [tail[length]]:
            length += 1
        shared[n] = length
        ends = length == len(words) and length >= 2 and not set(words) <= SMALL
        if length == len(tail) or ends:
            sure.append(n)
    if sure:
        most = max(shared[n] for n in sure)
        same = {pairs[n][0] for n in sure if shared[n] == most}
        return same | {pairs[n][0] for n in shared if shared[n] > most}
    for n, (i, tail) in enumerate(pairs):
        first = words[1:2] if words[:1] == ["the"] else words[:1]
        stray = bool(first) and first[0] in tail and first[0] not in SMALL
        if shared[n] >= 2 or any(w not in SMALL for w in words[: shared[n]]) or stray:
            unsure.add(i)
    return unsure


def slow_find(text: str, titles: list[str]) -> set[int]:
    plain, found = slow_fold(text), set()
    taken = [False] * len(plain)
    for i in sorted(range(len(titles)), key=lambda i: -len(normalize_title(titles[i]))):
        form, place, spans = normalize_title(titles[i]), 0, []
        while place + len(form) <= len(plain):
            end = place + len(form)
            inside = any(
                a.isalnum() and b.isalnum()
                for a, b in ((plain[place - 1 : place], form[0]), (form[-1], plain[end : end + 1]))
            )
            if plain[place:end] == form and not inside and not any(taken[place:end]):
                spans.append((place, end))
                place = end
            else:
                place += 1
        for _, end in spans:
            free = next((n for n in range(end, len(plain)) if taken[n]), len(plain))
            found |= slow_meant(i, plain[end:free], titles)
        for start, end in spans:
            taken[start:end] = [True] * (end - start)
    return found


def slow_read(text: str, titles: list[str]) -> TitleMatch:
    edges = " \"'*_.,;:!?()[]{}<>-"
    whole = slow_fold(text).strip(edges)
    numbered = re.match(r"(?:\((\d{1,3})\)|(\d{1,3})[.)])\s*(?=\S)", text)
    rest = slow_fold(text[numbered.end() :]).strip(edges) if numbered else whole
    forms = [normalize_title(title) for title in titles]
    if whole in forms:
        number = int(numbered.group(1) or numbered.group(2)) if numbered else 0
        if rest != whole and rest in forms and forms.index(rest) == number - 1:
            return TitleMatch(None, "ambiguous")
        return TitleMatch(forms.index(whole), "exact")
    if rest in forms:
        return TitleMatch(forms.index(rest), "numbered")
    if whole.isdigit() and 1 <= int(whole) <= len(titles):
        return TitleMatch(int(whole) - 1, "number")
    found = slow_find(text, titles)
    if len(found) == 1:
        return TitleMatch(found.pop(), "mention")
    return TitleMatch(None, "ambiguous" if found else "none")


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.sampled_from(["", "(1) ", "2. ", "i take the "]), st.data())
def test_the_ladder_reads_as_a_plain_slow_one(before: str, data: st.DataObject) -> None:
    words = data.draw(sets_of_titles())
    titles = [data.draw(joined(title)) for title in words]
    titles = list(
        {normalize_title(title): title for title in titles if normalize_title(title)}.values()
    )
    text = before + "".join(data.draw(st.lists(mentions(words), min_size=1, max_size=2)))
    assert read_title(text, titles) == slow_read(text, titles)
