"""The offline teacher: a program that weighs titles and categories and writes reasoning chains.

It is served on loopback as OpenAI chat completions, so the real client code runs. It knows the
catalogue and the training histories, and reads the rest from its prompt. It does not know the
target and is often wrong. Its completions carry the model name that was asked for, ``MODEL_NAME``
or ``WITH_TITLES``.

What speaks for a candidate is the sum of three things: its category, by how often it was bought;
the words that its title and brand share with the history, by their rarity; and how often it was
bought together with items of the history. Where training histories show that customers go on to
something else rather than come back, a category counts by how often it is bought after that of the
latest purchase (``msrrec.embedded.followers``). Candidates with equal sums are chosen from by a
hash of the prompt, so that no position in the list is preferred.

Its style is terse and refers to candidates by list number, which very small students can learn. If
the catalogue has no categories, the rarest word that history and candidate share stands in; the
model ``WITH_TITLES`` writes it behind the candidate's title, from which a student can copy it.
"""

import contextlib
import hashlib
import math
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from msrrec.embedded.followers import Followers, learn_followers, most_frequent
from msrrec.engines.loopback import serve_on_loopback
from msrrec.metrics.claims import UNLABELLED
from msrrec.reasoning.parsing import (
    ParsedPrompt,
    parse_plain_prompt,
    parse_prompt,
    parse_recovery_prompt,
)
from msrrec.reasoning.prompts import render_answer, render_output, render_reasoning
from msrrec.schema import Example, Item
from msrrec.titles import clean_title, is_content_word, normalize_title

MODEL_NAME, WITH_TITLES = "offline-teacher", "offline-teacher-titles"
MODEL_NAMES = (MODEL_NAME, WITH_TITLES)

_INCOMPLETE, _MALFORMED = 0.03, 0.03
"""Shares of completions that lack a step, and that are no chain at all."""
_WORD = re.compile(r"[^\W\d_]+")
_BESIDE_WEIGHT = 20.0
"""Weight of having been bought together, on the scale of words: about that of a word that occurs in
one of a hundred titles."""
_CATEGORY_WEIGHT = 60.0
"""Weight of each purchase from the candidate's category, on the scale of words: that of three words
that occur in one of a hundred titles."""
_LATEST_WEIGHT = 0.5
"""Number of purchases that the latest place of a category counts for, so that the one bought later
leads if two were bought as often."""


@dataclass(frozen=True)
class Opinion:
    """The analysis of one prompt, from which the steps of a chain are written.

    Attributes:
        preferences: At most two category labels, the stronger first.
        brand: A brand that the history holds at least twice, or None.
        labels: One label per candidate: its category, or its rarest shared word.
        ranking: 0-based candidates in groups of equal score, best first.
        reasons: One sentence per candidate that argues for it.
        bought: The categories of the history in order; empty if there are none.
        last: The category whose followers the preferences are; None if they are what was bought
            most.
    """

    preferences: tuple[str, ...]
    brand: str | None
    labels: tuple[str, ...]
    ranking: tuple[tuple[int, ...], ...]
    reasons: tuple[str, ...]
    bought: tuple[str, ...] = ()
    last: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What speaks for a candidate.

    Attributes:
        score: The sum of all its parts.
        word: The rarest word that it shares with the history; None if it shares none.
        num_together: How often training histories hold it with an item of the history.
    """

    score: float
    word: str | None
    num_together: int


class OfflineTeacher:
    """Answers prompts of the full chain from a catalogue and training histories.

    Args:
        items: The catalogue.
        examples: The training split, which says what is bought together and what after what.
    """

    def __init__(self, items: Iterable[Item], examples: Iterable[Example] = ()) -> None:
        self._items: dict[str, Item] = {}
        for item in items:
            self._items.setdefault(normalize_title(item.title), item)
        self._forms = sorted(self._items)
        self._has_categories = any(item.categories for item in self._items.values())
        self._words: dict[str, frozenset[str]] = {}
        self._rarity: dict[str, float] = {}
        self._together: Counter[tuple[str, str]] = Counter()
        self._learn_words()
        histories = _first_histories(examples)
        self._learn_together(histories)
        self._followers = self._learn_followers(histories)

    def answer(self, prompt: str, seed: int = 0, model: str = MODEL_NAME) -> tuple[str, str] | None:
        """The completion and its finish reason; the same for the same prompt and seed.

        Another seed picks another of the equally good candidates, and makes other mistakes.

        Returns:
            None if the text is none of the known prompts: full chain, plain, or recovery of a
            rationale's item.
        """
        if (asked := parse_recovery_prompt(prompt)) is not None:
            return self._recover(asked, seed), "stop"
        plain, parsed = parse_plain_prompt(prompt), parse_prompt(prompt)
        parsed = plain or (parsed if parsed and parsed.side == "full" else None)
        if parsed is None or not (parsed.history and parsed.candidates):
            return None
        digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
        rng = random.Random(digest)
        opinion = self._opinion(parsed)
        best = sorted(opinion.ranking[0], key=lambda n: _hash(f"{parsed.candidates[n]}\n{prompt}"))
        choice = best[seed % len(best)]
        titled = model == WITH_TITLES and not self._has_categories
        steps = write_steps(parsed.candidates, opinion, choice, labels_with_titles=titled)
        if plain:
            reasoning = f"{steps[0]} {steps[2]} {opinion.reasons[choice]}\n"
            answer = _write_answer(parsed, choice)
            return render_output(reasoning, answer), "stop"
        reasoning = render_reasoning("full", steps)
        answer = _write_answer(parsed, choice)
        draw = rng.random()
        if draw < _INCOMPLETE:
            reasoning = _drop_a_step(reasoning, rng)
        elif draw < _INCOMPLETE + _MALFORMED:
            return _malformed(reasoning, rng)
        return render_output(reasoning, answer), "stop"

    def _recover(self, prompt: ParsedPrompt, seed: int) -> str:
        """The candidate whose category or words a rationale mentions most; brands break ties."""
        rationale, scores = " ".join(prompt.history), []
        for title in prompt.candidates:
            item = self._find(title)
            marks = {_label(item).casefold()} if self._has_categories else self._words_of(item)
            brand = _brand(item).casefold()
            mentions = sum(rationale.count(mark) for mark in marks)
            scores.append((mentions, bool(brand) and brand in rationale))
        choice = random.Random(f"{seed}\n{rationale}").choice(_tiers(scores)[0])
        return _write_answer(prompt, choice)

    def _find(self, title: str) -> Item:
        """The catalogue's item with a title; an item without attributes if there is none.

        A title that was cut for the prompt means the first item that begins with it.
        """
        form = normalize_title(title)
        if form not in self._items and title.endswith("…"):
            place = bisect_left(self._forms, form)
            form = next((f for f in self._forms[place : place + 1] if f.startswith(form)), form)
        return self._items.get(form) or Item(title, title)

    def _opinion(self, prompt: ParsedPrompt) -> Opinion:
        """The analysis of a prompt; labels are categories, or shared words without categories."""
        history = [self._find(title) for title in prompt.history]
        candidates = [self._find(title) for title in prompt.candidates]
        weights = self._weigh_words(history)
        last = self._last_category(history)
        evidence = [self._weigh(item, history, weights, last) for item in candidates]
        if last and self._followers:
            labels = tuple(map(_label, candidates))
            liked = self._followers.ranked(last)[:2]
        elif self._has_categories:
            labels = tuple(map(_label, candidates))
            liked = [label for label in most_frequent(map(_label, history)) if label != UNLABELLED]
        else:
            words = [found.word for found in evidence]
            labels = tuple(map(_spell, words, prompt.candidates))
            spelled = dict(zip(reversed(words), reversed(labels), strict=True))
            liked = [spelled[w] for w in sorted(spelled.keys() - {None}, key=_heaviest(weights))]
        brand = _favourite_brand(history)
        reasons = tuple(
            _reason(
                label if _is_among(label, liked) else None,
                brand if _brand(item) == brand else None,
                found,
            )
            for item, label, found in zip(candidates, labels, evidence, strict=True)
        )
        return Opinion(
            tuple(liked[:2]) or (UNLABELLED,),
            brand,
            labels,
            _tiers([found.score for found in evidence]),
            reasons,
            tuple(map(_label, history)) if self._has_categories else (),
            last,
        )

    def _last_category(self, history: Sequence[Item]) -> str | None:
        """The category whose followers are wanted next; None where habit decides."""
        label = _label(history[-1])
        known = self._followers.counts if self._followers else {}
        return label if label in known else None

    def _weigh_words(self, history: Sequence[Item]) -> dict[str, float]:
        """The weight of each word of the history: its number times its rarity."""
        counts = Counter(word for item in history for word in self._words_of(item))
        return {word: count * self._rarity.get(word, 0.0) for word, count in counts.items()}

    def _weigh(
        self, item: Item, history: Sequence[Item], weights: Mapping[str, float], last: str | None
    ) -> Evidence:
        """What speaks for a candidate, given the weights of the history's words.

        What follows the last category counts like as many purchases of a history of this length.
        """
        if last and self._followers:
            purchases = len(history) * self._followers.share(last, _label(item))
        else:
            purchases = _count_purchases(_label(item), history)
        shared = sorted(self._words_of(item) & weights.keys(), key=lambda w: (-weights[w], w))
        together = sum(self._together[_pair(item.item_id, h.item_id)] for h in history)
        score = (
            _CATEGORY_WEIGHT * purchases
            + sum(map(weights.__getitem__, shared))
            + _BESIDE_WEIGHT * math.log1p(together)
        )
        return Evidence(round(score, 6), shared[0] if shared else None, together)

    def _learn_words(self) -> None:
        """Weight of each word of title or brand: squared logarithm of all items over its items."""
        documents: Counter[str] = Counter()
        for key, item in self._items.items():
            words = _WORD.findall(f"{clean_title(item.title)} {_brand(item)}".lower())
            self._words[key] = frozenset(filter(is_content_word, words))
            documents.update(self._words[key])
        self._rarity = {w: math.log(len(self._items) / n) ** 2 for w, n in documents.items()}

    def _learn_together(self, histories: Iterable[Sequence[str]]) -> None:
        """Count pairs of items in one history."""
        for history in histories:
            self._together.update(_pair(a, b) for a, b in combinations(set(history), 2))

    def _learn_followers(self, histories: Iterable[Sequence[str]]) -> Followers | None:
        """What category is bought after what, where that foretells purchases."""
        by_id = {item.item_id: _label(item) for item in self._items.values()}
        labels = ([by_id.get(item_id, UNLABELLED) for item_id in history] for history in histories)
        return learn_followers([label for label in some if label != UNLABELLED] for some in labels)

    def _words_of(self, item: Item) -> frozenset[str]:
        return self._words.get(normalize_title(item.title), frozenset())


def _first_histories(examples: Iterable[Example]) -> list[tuple[str, ...]]:
    """The first training history of each user, as a later one may contain an earlier target."""
    histories: dict[str, tuple[str, ...]] = {}
    for example in sorted(examples, key=lambda e: len(e.history)):
        histories.setdefault(example.user_id, example.history)
    return list(histories.values())


def _write_answer(prompt: ParsedPrompt, choice: int) -> str:
    """The answer for a candidate, as an API's model writes it."""
    return render_answer(prompt.candidates[choice], choice, prompt.form.answer_format).strip()


def write_steps(
    titles: Sequence[str], opinion: Opinion, choice: int, *, labels_with_titles: bool = False
) -> tuple[str, ...]:
    """The five steps around a choice (0-based); each label follows its title if so wanted."""
    liked = opinion.preferences
    second = f", then {liked[1]}" if len(liked) > 1 else ""
    brand = f" Favourite brand: {opinion.brand}." if opinion.brand else ""
    bought = f"{', '.join(opinion.bought)}. " if opinion.bought else ""
    before = [f"{title}: " if labels_with_titles else "" for title in titles]
    labels = "; ".join(f"({n}) {before[n - 1]}{v}" for n, v in enumerate(opinion.labels, 1))
    wanted, reminder = "The user mostly buys", ""
    if opinion.last:
        # The chain of the item side lacks the first step, so the third says what matching goes by.
        wanted = f"After {opinion.last}, customers mostly buy"
        reminder = f"Last bought: {opinion.last}. "
    return (
        f"{bought}{wanted} {liked[0]}{second}.{brand}",
        f"{labels}.",
        reminder + " ".join(f"From {label}: {_matches(label, opinion.labels)}." for label in liked),
        f"({choice + 1}) fits best.",
        f"({choice + 1}) {titles[choice]}. {opinion.reasons[choice]}",
    )


def _matches(label: str, labels: Sequence[str]) -> str:
    if label == UNLABELLED:
        return "none"
    numbers = [f"({n})" for n, other in enumerate(labels, 1) if _is_among(other, [label])]
    return ", ".join(numbers) or "none"


def _heaviest(weights: Mapping[str, float]) -> Callable[[str | None], tuple[float, str]]:
    """What sorts words by weight, the heaviest first."""
    return lambda word: (-weights[word or ""], word or "")


def _spell(word: str | None, title: str) -> str:
    """A word as a title writes it, which is what a student can copy."""
    found = re.search(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", title, re.I) if word else None
    return found[0] if found else word or UNLABELLED


def _is_among(label: str, labels: Sequence[str]) -> bool:
    """Whether labels hold one, however it is spelled."""
    return label.casefold() in map(str.casefold, labels)


def _reason(label: str | None, brand: str | None, found: Evidence) -> str:
    """The sentence for a candidate: its label, its brand, a shared word, or its companions."""
    if label:
        return f"It matches {label}."
    if brand:
        return f"It is made by {brand}."
    if found.word:
        return f"It shares the word {found.word}."
    if found.num_together:
        return "It was bought with items of the history."
    return "There is no clear match."


def _label(item: Item) -> str:
    """The narrowest category of an item."""
    return clean_title(item.categories[-1]) if item.categories else UNLABELLED


def _count_purchases(label: str, history: Sequence[Item]) -> float:
    """Number of purchases from a category; the place of the latest one adds a little."""
    places = [n for n, item in enumerate(history, 1) if _label(item) == label != UNLABELLED]
    return len(places) + _LATEST_WEIGHT * places[-1] / len(history) if places else 0.0


def _favourite_brand(history: Sequence[Item]) -> str | None:
    """The brand bought most, if it was bought at least twice."""
    brands = [_brand(item) for item in history]
    repeated = [b for b in most_frequent(brands) if b and brands.count(b) > 1]
    return repeated[0] if repeated else None


def _brand(item: Item) -> str:
    return clean_title(item.brand or "")


def _tiers(scores: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """Candidates in groups of equal score, highest first."""
    return tuple(
        tuple(n for n, score in enumerate(scores) if score == level)
        for level in sorted(set(scores), reverse=True)
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def _drop_a_step(reasoning: str, rng: random.Random) -> str:
    lines = reasoning.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def _malformed(reasoning: str, rng: random.Random) -> tuple[str, str]:
    """Prose without steps, nothing at all, or a chain cut off in its middle."""
    kind = rng.randrange(3)
    if kind == 0:
        return "Any of these would be a fine next purchase for this user.", "stop"
    return ("", "stop") if kind == 1 else (reasoning[: len(reasoning) // 2], "length")


def build_app(teacher: OfflineTeacher) -> Any:
    """The HTTP application: ``/v1/chat/completions`` and ``/v1/models``."""
    from fastapi import FastAPI, Request  # a web framework that only this function needs
    from fastapi.responses import JSONResponse

    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        card = {"object": "model", "created": 0, "owned_by": "msrrec"}
        cards = [{"id": name, **card} for name in MODEL_NAMES]
        return JSONResponse({"object": "list", "data": cards})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        status, content = complete(teacher, body)
        return JSONResponse(content, status)

    return app


def complete(teacher: OfflineTeacher, body: Mapping[str, Any]) -> tuple[int, dict[str, object]]:
    """HTTP status and body of a chat completion."""
    prompt = "".join(str(m.get("content")) for m in body.get("messages", []))
    model = str(body.get("model"))
    answer = teacher.answer(prompt, int(body.get("seed") or 0), model)
    if model not in MODEL_NAMES or answer is None or body.get("stream"):
        names = " or ".join(map(repr, MODEL_NAMES))
        message = f"expected model {names}, no stream, and one prompt of the full chain"
        return 400, {"error": {"message": message, "type": "invalid_request_error"}}
    text, finish_reason = answer
    asked, written = len(prompt.split()), len(text.split())
    message_row = {"role": "assistant", "content": text}
    return 200, {
        "id": "chatcmpl-" + hashlib.sha256(text.encode()).hexdigest()[:12],
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message_row, "finish_reason": finish_reason}],
        "usage": {  # words are counted, as the program has no tokens
            "prompt_tokens": asked,
            "completion_tokens": written,
            "total_tokens": asked + written,
        },
    }


@contextlib.contextmanager
def serve_offline_teacher(teacher: OfflineTeacher) -> Iterator[str]:
    """Serve the offline teacher on a free loopback port within the block; yields its base URL.

    It runs in a thread of this process and ends with it.
    """
    with serve_on_loopback(build_app(teacher)) as url:
        yield f"{url}/v1"
