"""Item titles as prompts show them, and the one rule by which a text names a candidate.

Titles are untrusted text. They reach a prompt only through ``clean_title``, one line each.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from msrrec.markup import REASONING_END as REASONING_END
from msrrec.markup import REASONING_START as REASONING_START
from msrrec.markup import break_marks, drop_openers

MAX_TITLE_CHARS = 160
"""Maximum length; longer titles are cut between words and end in an ellipsis."""

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_ALIKE = str.maketrans(
    {c: None for c in "\ufe0e\ufe0f™®©"}
    | {"×": "x"}
    | {c: '"' for c in "“”„‟«»″‶ʺ˝"}
    | {c: "'" for c in "‘’‚‛′‵ʹʼʻˈ`´"}
    | {c: "-" for c in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58"}
)
"""Quotes, primes and dashes that stand for one another; signs that are often left out."""
_DASHES = re.compile("-{2,}")
"""A dash as typewriters and plain text have it."""
_EDGES = " \t\n\"'*_.,;:!?()[]{}<>-–—…"
_NUMBER = re.compile(r"[\"'*_]*\s*(?:\(\d{1,3}\)|\d{1,3}[.)])\s*(?=\S)")
_SCRIPT = r"\u3040-\u30ff\u3400-\u9fff"  # Chinese and Japanese
_UNSPACED = re.compile(rf"[{_SCRIPT}]")
_COUNT = r"(?:\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten)"
_ORDINAL = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last"
    r"|\d{1,2}(?:st|nd|rd|th))"
)
_NOUN = r"(?:candidate|item|option|choice|product|title|pick)"
_LISTED = re.compile(
    rf"[(\[]\s?\d{{1,3}}\s?[)\]]|\b{_NOUN}s?[\s:#(\[-]{{1,4}}{_COUNT}\b"
    rf"|\b{_ORDINAL} (?:{_NOUN}|one)\b|(?:\bnumber |\bno\.? ?|#|№ ?)\d{{1,3}}\b"
    r"|\b\d{1,2}[.):] ?(?=\0)"
)
"""Pattern for a mention of a candidate by its place in the list, in folded prose."""
_EMPHASIS = re.compile(r"[*_`]+")
_MARKED = re.compile(r"[{0}]*\0[{0}]*".format(re.escape("".join(_EDGES.split()))))
_PLACE = "\0"
"""Placeholder for a title that was found; it occurs in no cleaned title."""
_ASCII_CONTROLS = {n: " " if chr(n).isspace() else None for n in (*range(32), 127)}
_CACHED = 8192
_CACHED_LISTS = 64
"""Number of titles whose forms are kept, as one title is looked for in many texts in a row."""
_MIN_CUT_CHARS = 8
_MIN_CONTENT_LETTERS = 3
_EMPTY_WORDS = {"and", "are", "for", "from", "new", "our", "the", "this", "that", "with", "your"}
_FEW_PASSES = 4
"""Texts of catalogues need fewer."""
_MANY_PASSES = 8
_NESTED_ENTITY = re.compile("&(?:(?:amp|AMP|#0*38|#[xX]0*26);)+")
"""An ampersand that was escaped any number of times."""
_TOKEN = re.compile(rf"[{_SCRIPT}]|(?:(?![{_SCRIPT}])\w)+")
_BRACKETS = re.compile(r"\([^()]*(?:\)|$)|\[[^\[\]]*(?:\]|$)")  # the last one is cut off
_CLAUSE_END = re.compile(r"[.!?](?:\s|$)|[;\0]")
_AFTER_CHARS = 2 * MAX_TITLE_CHARS
_ARTICLES = frozenset(("a", "an", "the"))
_SMALL_WORDS = frozenset(
    (*_ARTICLES, "and", "as", "at", "but", "by", "for", "from", "in", "is", "it", "its", "of")
) | {"on", "or", "to", "was", "with"}
"""Words that also go on in prose, so that one of them after a title says nothing."""
_SUBTITLE = re.compile(r"\s*[:;(\[{,|…]\s*|\s[-–—]\s")


def clean_title(title: str, max_chars: int = MAX_TITLE_CHARS) -> str:
    """A title as prompts show it: one line of limited length, without markup and markers.

    HTML entities are decoded however often their ampersand was escaped, white space is collapsed,
    and invisible and control characters are removed. A mark of chains or of thoughts loses its
    brackets, so a title can neither end its line nor close the reasoning. Cleaning a clean title
    changes nothing. The result is empty if no visible character is left. The number of passes over
    the text is bounded: one whose entities or marks are nested deeper loses what could begin one.
    """
    # What is cut is enough for entities; a title may have 400,000 characters.
    return _clean(title[: 8 * MAX_TITLE_CHARS], max_chars)


@lru_cache(maxsize=_CACHED)
def _clean(text: str, max_chars: int) -> str:
    num_passes = 0
    while (cleaned := _clean_once(text)) != text:  # removals can join new entities and markers
        text, num_passes = cleaned, num_passes + 1
        if num_passes == _FEW_PASSES:
            text = _NESTED_ENTITY.sub("&", text)
        elif num_passes == _MANY_PASSES:  # nested on purpose: nothing is left that could nest
            text = drop_openers(text)
    if len(text) <= max_chars:
        return text
    head = text[: max_chars - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[max_chars // 2 :] else head).rstrip() + "…"


def show_titles(titles: Sequence[str], max_chars: int = MAX_TITLE_CHARS) -> list[str]:
    """Titles as one list shows them, each cut to ``max_chars`` characters unless that hides it.

    A cut title that reads like another one of the list is shown at its full length of at most 160
    characters. Showing shown titles changes nothing.
    """
    whole = [clean_title(title) for title in titles]
    shown = [clean_title(title, max_chars) for title in whole]
    before: list[str] = []
    while before != shown:  # a lengthened title may read like another cut one
        before, forms = shown, [normalize_title(title) for title in shown]
        counts = Counter(forms)
        shown = [
            long if counts[form] > 1 else short
            for long, short, form in zip(whole, before, forms, strict=True)
        ]
    return shown


def _clean_once(text: str) -> str:
    return break_marks(" ".join(_drop_invisible(text).split()))


def _drop_invisible(text: str) -> str:
    """The text with entities as characters, white space as spaces, and without what can't be seen.

    Entities are read once.
    """
    if text.isascii() and "&" not in text:
        return text if text.isprintable() else text.translate(_ASCII_CONTROLS)
    spaced = "".join(" " if c.isspace() else c for c in html.unescape(text))
    return "".join(c for c in spaced if unicodedata.category(c) not in _INVISIBLE)


def _fold(visible: str) -> str:
    """The one form in which texts are compared: case, spaces, quotes, primes and dashes alike.

    Trademark signs and the selectors of emoji are left out; ``×`` is x, and ``½`` is 1/2.

    Signs are folded before NFKC, which takes a double prime apart, and after it, which makes some.
    """
    plain = unicodedata.normalize("NFKC", visible.translate(_ALIKE)).translate(_ALIKE)
    typed = _DASHES.sub("-", plain.replace("''", '"').replace("\u2044", "/"))
    return " ".join(typed.split()).casefold()


def normalize_title(text: str) -> str:
    """The form in which titles are compared: cleaned, case-folded, without outer punctuation.

    A title that is only punctuation is kept, so that it still differs from others.
    """
    return _normalize(text[: 8 * MAX_TITLE_CHARS])  # clean_title reads no more


@lru_cache(maxsize=_CACHED)
def _normalize(text: str) -> str:
    cleaned = clean_title(text)
    text = _fold(cleaned) or cleaned  # a title may be nothing but signs that are left out
    return text.strip(_EDGES) or text


@lru_cache(maxsize=_CACHED_LISTS)
def _normalize_all(titles: tuple[str, ...]) -> tuple[str, ...]:
    """The forms of the titles of one list, which several steps are compared with."""
    return tuple(map(_normalize, titles))


def strip_number(text: str) -> str:
    """The text without one leading list number: ``(3) Lamp``, ``3. Lamp`` and ``3) Lamp``."""
    match = _NUMBER.match(text.lstrip())
    return text.lstrip()[match.end() :] if match else text


Rung = Literal["exact", "numbered", "number", "mention", "ambiguous", "none"]
"""How a text names a candidate: its title alone; after a list number; a list number alone; one
mention in prose. Or why it names none: several could be meant, or no candidate is."""


@dataclass(frozen=True)
class TitleMatch:
    """The 0-based candidate that a text names, None for none or several, and how that was seen."""

    index: int | None
    rung: Rung


def read_title(text: str, candidates: Sequence[str]) -> TitleMatch:
    """The candidate that a text names, by the first rung of one ladder that tells.

    1. exact: the whole text is the title after folding (HTML entities, case, spaces, quotes,
       primes, dashes, outer punctuation).
    2. numbered: it is a list number and the title. Where the whole is one candidate and the number
       and the rest another, nothing is named.
    3. number: it is a list number alone.
    4. mention: just one candidate is found by ``find_titles``.
    """
    strict = _read_whole(text, candidates)
    if strict.index is not None or strict.rung == "ambiguous":
        return strict
    number = normalize_title(text)
    if number.isdecimal() and len(number) <= 3 and 1 <= int(number) <= len(candidates):
        return TitleMatch(int(number) - 1, "number")
    found = find_titles(text, candidates)
    if len(found) == 1:
        return TitleMatch(found[0], "mention")
    return TitleMatch(None, "ambiguous" if found else "none")


def match_title(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the candidate that ``text`` names; None for none or several.

    Only a text that is a title, or a list number and a title, names one: the first two rungs of
    ``read_title``.
    """
    return _read_whole(text, candidates).index


def _read_whole(text: str, candidates: Sequence[str]) -> TitleMatch:
    wanted = _normalize_all(tuple(title[: 8 * MAX_TITLE_CHARS] for title in candidates))
    whole, rest = (
        [i for i, title in enumerate(wanted) if title and title == form]
        for form in (normalize_title(text), normalize_title(strip_number(text)))
    )
    if whole and whole != rest and rest == [_leading_number(text) - 1]:
        return TitleMatch(None, "ambiguous")
    hits = whole or rest
    if len(hits) == 1:
        return TitleMatch(hits[0], "exact" if whole else "numbered")
    return TitleMatch(None, "ambiguous" if hits else "none")


def _leading_number(text: str) -> int:
    """The list number that ``strip_number`` drops; 0 if there is none."""
    match = _NUMBER.match(text.lstrip())
    return int("".join(c for c in match.group() if c.isdigit())) if match else 0


def match_short_title(text: str, candidates: Sequence[str]) -> int | None:
    """The 0-based index of the only candidate that a shortened title can mean, or None.

    A shortened title is the title up to its subtitle, its first words (at least two), its first
    characters and an ellipsis, or at least three of its words in order. Teachers shorten titles in
    prose; a student's answer must satisfy ``match_title``.
    """
    form = normalize_title(strip_number(text))
    words = re.findall(r"\w+", form)
    is_cut = text.rstrip(" \"'”’*_)]").endswith(("...", "…"))
    hits = [
        i
        for i, title in enumerate(candidates)
        if words and (_is_short(form, words, title) or (is_cut and _begins(title, form)))
    ]
    return hits[0] if len(hits) == 1 else None


def _begins(title: str, form: str) -> bool:
    return len(form) >= _MIN_CUT_CHARS and normalize_title(title).startswith(form)


def _is_short(form: str, words: Sequence[str], title: str) -> bool:
    if form == main_title(title):
        return True
    whole = re.findall(r"\w+", normalize_title(title))
    if whole[: len(words)] == words:
        return len(words) >= 2
    rest = iter(whole)
    return len(words) >= 3 and all(word in rest for word in words)


def main_title(title: str) -> str:
    """The normalised title without its subtitle, series or edition."""
    return _main(normalize_title(title))


@lru_cache(maxsize=_CACHED)
def _main(form: str) -> str:
    return _SUBTITLE.split(form, maxsplit=1)[0]


def fold_text(text: str) -> str:
    """Prose in the form in which normalised titles are searched for."""
    return _fold(_drop_invisible(text))


def is_content_word(word: str) -> bool:
    """Whether two titles that share a word, in lower case, have something in common by that."""
    return len(word) >= _MIN_CONTENT_LETTERS and word not in _EMPTY_WORDS


@dataclass(frozen=True)
class Mention:
    """A mention in folded text: where it stands, and the 0-based candidates that it may mean."""

    start: int
    end: int
    meant: frozenset[int]


def find_titles(text: str, candidates: Sequence[str], *, short: bool = False) -> list[int]:
    """The candidates that prose mentions, as 0-based indices in ascending order.

    See ``find_mentions``.
    """
    mentions = find_mentions(fold_text(text), candidates, short=short)
    return sorted({index for mention in mentions for index in mention.meant})


def find_mentions(plain: str, candidates: Sequence[str], *, short: bool = False) -> list[Mention]:
    """The mentions of candidates in folded prose, in their order.

    A mention stands between word boundaries, and longer titles are looked for first. A candidate
    whose title lies inside another candidate's counts only where it occurs outside that longer
    title. Where the longer title's words go on after the shorter one, as in ``Halo 3 ODST`` for
    ``Halo 3`` and ``Halo 3: ODST``, the longer one is meant; where only some of them do, both may
    be, and both are given.

    Args:
        plain: Prose to search, as ``fold_text`` gives it.
        candidates: Titles of the candidates.
        short: Whether the part before a subtitle counts too, if it has at least three words and no
            other candidate begins with it.
    """
    return list(_find_mentions(plain, tuple(map(normalize_title, candidates)), short))


@lru_cache(maxsize=_CACHED_LISTS)  # a step is searched whole and, for its words, line by line
def _find_mentions(plain: str, titles: tuple[str, ...], short: bool) -> tuple[Mention, ...]:
    """See ``find_mentions``; ``titles`` are normalised."""
    found: list[Mention] = []
    for form, i in _searched_forms(titles, short):
        if form not in plain:
            continue
        ends = list(_mention_ends(plain, form))
        longer = _longer_titles(i, titles) if ends else {}
        for end in ends:
            meant = _meant_by(i, plain[end : end + _AFTER_CHARS], longer)
            found.append(Mention(end - len(form), end, frozenset(meant)))
        plain, _ = replace_mentions(plain, form, _PLACE * len(form))
    return tuple(sorted(found, key=lambda mention: mention.start))


@lru_cache(maxsize=_CACHED)
def _searched_forms(titles: tuple[str, ...], short: bool) -> tuple[tuple[str, int], ...]:
    """What to search for, longest first, and whose it is; ``titles`` are normalised."""
    forms = [(title, i) for i, title in enumerate(titles)]
    if short:
        forms += [
            (main, i)
            for i, title in enumerate(titles)
            if len((main := _main(title)).split()) >= 3
            and not any(whole.startswith(main) for whole, other in forms if other != i)
        ]
    return tuple(sorted(forms, key=lambda pair: -len(pair[0])))


def meant_by(index: int, after: str, candidates: Sequence[str]) -> set[int]:
    """Which candidates a mention of one may mean, by the words that stand after it.

    Itself, unless its title lies inside a longer one whose words go on there. All of them, or all
    but what stands in brackets or after the subtitle's sign, or the first two or more up to the end
    of a clause, mean the longer one; else some of them mean that it can't be told.

    Args:
        index: The 0-based candidate whose title was found.
        after: Folded text from the end of the mention.
        candidates: Titles.
    """
    titles = tuple(map(normalize_title, candidates))
    return _meant_by(index, after, _longer_titles(index, titles))


@lru_cache(maxsize=_CACHED)
def _longer_titles(index: int, titles: tuple[str, ...]) -> dict[int, list[list[str]]]:
    """The titles in which another one lies, and the words that go on after it there.

    All are normalised; the result is shared and must not be changed.
    """
    inner = _shapes(titles[index])[0]
    tails = {i: _tails(title, inner) for i, title in enumerate(titles) if i != index and inner}
    return {i: found for i, found in tails.items() if found}


def _meant_by(index: int, after: str, longer: Mapping[int, Sequence[list[str]]]) -> set[int]:
    if not longer:
        return {index}
    words = _tokens(_CLAUSE_END.split(after[:_AFTER_CHARS], maxsplit=1)[0])
    shared = [(_count_shared(words, t), t, i) for i, tails in longer.items() for t in tails]
    whole = [
        (n, i) for n, t, i in shared if n == len(t) or (n == len(words) and _is_telling(t[:n]))
    ]
    if whole:
        longest = max(whole)[0]
        return {i for n, i in whole if n == longest} | {i for n, _, i in shared if n > longest}
    return {index} | {i for n, tail, i in shared if _may_go_on(words, tail, n)}


def _count_shared(words: Sequence[str], tail: Sequence[str]) -> int:
    """With how many of a title's words a text goes on."""
    pairs = enumerate(zip(words, tail, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(words), len(tail)))


def _is_telling(words: Sequence[str]) -> bool:
    """Whether some words of a title can stand for all of them where a clause ends."""
    return len(words) >= 2 and not set(words) <= _SMALL_WORDS


def _tails(form: str, inner: list[str]) -> list[list[str]]:
    """What is left of a longer title after a shorter one: of the whole, and of its short forms."""
    return [
        tokens[n + len(inner) :]
        for tokens in _shapes(form)
        for n in range(len(tokens) - len(inner))
        if tokens[n] == inner[0] and tokens[n : n + len(inner)] == inner
    ]


@lru_cache(maxsize=_CACHED)
def _shapes(form: str) -> tuple[list[str], ...]:
    """The words of a normalised title as a whole, without brackets, and without its subtitle."""
    return tuple(_tokens(shape) for shape in (form, _BRACKETS.sub(" ", form), _main(form)))


def _may_go_on(words: Sequence[str], tail: Sequence[str], shared: int) -> bool:
    """Whether words after a mention, the first ``shared`` in order, may be a longer title's."""
    if shared >= 2 or not set(words[:shared]) <= _SMALL_WORDS:
        return True
    first = next((word for word in words[:2] if word not in _ARTICLES), "")
    return first in tail and first not in _SMALL_WORDS


def _tokens(folded: str) -> list[str]:
    """Words; characters of scripts that write without spaces are one each."""
    return _TOKEN.findall(folded)


def _mention_ends(plain: str, form: str) -> Iterator[int]:
    """Where each mention of a form ends."""
    place = plain.find(form) if form else -1
    while place >= 0:
        end = place + len(form)
        is_word = _joins(plain[max(place - 1, 0) : place], form[0]) or _joins(
            form[-1], plain[end : end + 1]
        )
        if not is_word:
            yield end
        place = plain.find(form, place + 1 if is_word else end)


def mask_titles(text: str, candidates: Sequence[str]) -> str:
    """Folded prose with ``[item]`` in place of every mention of a candidate.

    A mention is the title, its first words (at least two), the part before its subtitle, or its
    place in the list. Punctuation around a mention is removed too, as it may belong to the title.
    """
    plain = _EMPHASIS.sub("", fold_text(text))
    for form in _list_names(candidates):
        plain, _ = replace_mentions(plain, form, _PLACE)
    masked = _MARKED.sub(_PLACE, _LISTED.sub(_PLACE, plain))
    return " ".join(masked.replace(_PLACE, " [item] ").split())


def _list_names(candidates: Sequence[str]) -> list[str]:
    """All names that prose may use for the candidates, longest first."""
    names: set[str] = set()
    for title in candidates:
        whole = _EMPHASIS.sub("", normalize_title(title))
        words = whole.split()
        names |= {whole, _EMPHASIS.sub("", main_title(title))}
        names |= {" ".join(words[:n]).strip(_EDGES) for n in range(2, len(words))}
    return sorted(names - {""}, key=lambda name: (-len(name), name))


def replace_mentions(plain: str, form: str, by: str) -> tuple[str, int]:
    """Folded text with every mention of a normalised title replaced, and the number of mentions.

    A mention begins and ends at word boundaries, except in scripts without spaces.
    """
    parts: list[str] = []
    start = 0
    for end in _mention_ends(plain, form):
        parts.append(plain[start : end - len(form)])
        start = end
    return by.join([*parts, plain[start:]]), len(parts)


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return _is_of_word(left) and _is_of_word(right)


@lru_cache(maxsize=_CACHED)
def _is_of_word(char: str) -> bool:
    """Whether a character is part of a word, with spaces around it; vowel signs and accents are."""
    is_part = char.isalnum() or char == "_" or unicodedata.category(char or " ") in ("Mn", "Mc")
    return is_part and not _UNSPACED.match(char)
