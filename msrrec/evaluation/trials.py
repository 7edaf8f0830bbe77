"""The requests of one user's interventions: which text is forced, and what is left to the model.

Where the whole reasoning is given, the answer is decoded greedily among the candidates. Where the
model writes on, it samples as in the evaluation, and its answer is constrained to candidates.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from msrrec.config.evaluate import Intervention
from msrrec.engines.base import GenerationRequest
from msrrec.inference.codec import request_seed
from msrrec.inference.recommender import Recommender
from msrrec.reasoning.edits import Span, matching_step, name_other
from msrrec.reasoning.encoding import AnswerChoice, Query, encode_choice, encode_text
from msrrec.reasoning.prompts import STEPS, Side
from msrrec.schema import Item
from msrrec.titles import clean_title, find_titles, fold_text, mask_titles
from msrrec.training.arms import encode_filler

KEPT = "kept"
"""Name of the trial with the unchanged chain, whose choice is the reference of all others."""

_MATCHED = re.compile(r"(?:matches|shares the word) ([^\W\d_]+)")

_PROMPT_EDITS = ("cited_removed", "random_removed", "shuffled")
_CONTINUED = ("continued", "mistake", "paraphrase")
_SAMPLED = (*_CONTINUED, "regenerated", *_PROMPT_EDITS)
_NEEDS: dict[Intervention, tuple[str, ...]] = {
    "mistake": ("continued", "mistake"),
    "paraphrase": ("continued", "paraphrase"),
    "random_removed": ("regenerated", "random_removed"),
    "cited_removed": ("regenerated", "random_removed", "cited_removed"),
    "shuffled": ("regenerated", "shuffled"),
}
"""The trials of an intervention, its controls' included, where there is more than itself."""


@dataclass(frozen=True)
class Case:
    """One user with a whole chain.

    Attributes:
        query: As the model was asked.
        shown: The candidates' titles as the prompt shows them.
        purchases: The items of the history.
        target: 0-based candidate.
        reasoning: The model's own text between the markers.
        steps: Where each step stands in it.
        index: 0-based candidate that the model chose.
        paraphrase: The chain to the end of its matching step in other words; None where there is no
            paraphrase that can be used.
    """

    query: Query
    shown: tuple[str, ...]
    purchases: tuple[Item, ...]
    target: int
    reasoning: str
    steps: tuple[Span, ...]
    index: int
    paraphrase: str | None = None

    @property
    def titles(self) -> tuple[str, ...]:
        """All titles that the model was shown."""
        return (*self.query.history, *self.shown)

    def until_matching(self, side: Side) -> str:
        """The chain to the end of its matching step."""
        return f"{self.reasoning[: self.steps[matching_step(side)].end]}\n"

    @property
    def key(self) -> str:
        """The example's id."""
        return self.query.key


@dataclass(frozen=True)
class Trial:
    """One request for one user; ``named`` is the candidate that a mistake names."""

    name: str
    case: Case
    request: GenerationRequest
    named: int | None = None


def trial_names(side: Side, interventions: Sequence[Intervention]) -> tuple[str, ...]:
    """All trials of some interventions, the unchanged chain first, each once."""
    names = [KEPT]
    for name in interventions:
        if name == "cut":
            names += [f"cut_{count}" for count in range(len(STEPS[side]))]
        else:
            names += _NEEDS.get(name, (name,))
    return tuple(dict.fromkeys(names))


def is_sampled(name: str) -> bool:
    """Whether the model writes on in a trial."""
    return name in _SAMPLED


def plan_trials(
    recommender: Recommender, case: Case, side: Side, names: Sequence[str]
) -> Iterator[Trial]:
    """The requests for one user; an intervention that can't be made gives none."""
    for name in names:
        if name in _PROMPT_EDITS:
            edited = edit_query(case, name, recommender.config.seed)
            if edited is not None:
                yield Trial(name, case, _sample(recommender, edited, side, "regenerated"))
        elif name == "regenerated":
            yield Trial(name, case, _sample(recommender, case.query, side, name))
        elif name in _CONTINUED:
            if name != "paraphrase" or case.paraphrase is not None:
                yield _continue(recommender, case, side, name)
        else:
            yield Trial(
                name, case, _force(recommender, case, side, _forced_ids(recommender, case, name))
            )


def edit_query(case: Case, name: str, seed: int) -> Query | None:
    """The query with other purchases or another order of them; None where that is impossible."""
    titles, rng = case.query.history, Random(f"{seed}:{name}:{case.key}")
    if name == "shuffled":
        shuffled = list(titles)
        rng.shuffle(shuffled)
        return replace(case.query, history=tuple(shuffled)) if shuffled != [*titles] else None
    cited = find_cited(case)
    others = [n for n in range(len(titles)) if n not in cited]
    count = min(len(cited), len(others))
    if not count:
        return None
    out = cited[-count:] if name == "cited_removed" else rng.sample(others, count)
    return replace(case.query, history=tuple(t for n, t in enumerate(titles) if n not in out))


def find_cited(case: Case) -> list[int]:
    """0-based purchases that a chain cites, ascending.

    Those whose titles it mentions. Where it mentions none, those whose narrowest category or brand
    the recommending step names outside of candidates' titles, and of items without either those
    whose title has the word that the step says is matched or shared.
    """
    titles = [clean_title(item.title) for item in case.purchases]
    mentioned = find_titles(case.reasoning, list(dict.fromkeys(titles)))
    if mentioned:
        unique = list(dict.fromkeys(titles))
        cited = {unique[n] for n in mentioned}
        return [n for n, title in enumerate(titles) if title in cited]
    last = case.reasoning[case.steps[-1].begin : case.steps[-1].end]
    reason = mask_titles(last, case.shown)
    return [n for n, item in enumerate(case.purchases) if _is_named(item, reason)]


def _is_named(item: Item, folded: str) -> bool:
    names = [*item.categories[-1:], *([item.brand] if item.brand else [])]
    if not names:
        words = re.findall(r"[^\W\d_]+", fold_text(item.title))
        return any(word in words for word in _MATCHED.findall(folded))
    forms = [fold_text(name).strip() for name in names]
    return any(form and re.search(rf"(?<!\w){re.escape(form)}(?!\w)", folded) for form in forms)


def _forced_ids(recommender: Recommender, case: Case, name: str) -> list[int]:
    """The tokens that stand in place of the chain."""
    tokenizer, reasoning = recommender.tokenizer, case.reasoning
    if name == "filler":
        return encode_filler(tokenizer, len(encode_text(tokenizer, reasoning)))
    if name.startswith("cut_"):
        count = int(name.removeprefix("cut_"))
        reasoning = reasoning[: case.steps[count - 1].end] if count else ""
    return encode_text(tokenizer, f"{reasoning}\n") if reasoning else []


def _force(
    recommender: Recommender, case: Case, side: Side, reasoning: Sequence[int]
) -> GenerationRequest:
    """The answer after a given reasoning, which is cut at its end where there is no room for it."""
    request = recommender.build_request(case.query, side)
    choice = encode_choice(recommender.tokenizer, case.query.candidates, recommender.form)
    room = recommender.max_model_len - len(request.prompt_ids) - choice.num_tokens
    given = tuple(reasoning)[: max(room, 0)]
    return GenerationRequest(
        prompt_ids=(*request.prompt_ids, *given, *choice.closing),
        seed=0,
        max_new_tokens=choice.num_tokens - len(choice.closing),
        temperature=0.0,
        choice=AnswerChoice((), choice.answers),
    )


def _continue(recommender: Recommender, case: Case, side: Side, name: str) -> Trial:
    """The chain to the end of its matching step, as it is, with a mistake or in other words."""
    text, named = case.until_matching(side), None
    if name == "mistake":
        span = case.steps[matching_step(side)]
        others = [n for n in range(len(case.shown)) if n != case.index]
        named = Random(f"{recommender.config.seed}:{case.key}").choice(others)
        step = case.reasoning[span.begin : span.end]
        step = name_other(step, case.index, named, case.shown)
        text = f"{case.reasoning[: span.begin]}{step}\n"
    elif name == "paraphrase":
        assert case.paraphrase is not None
        text = case.paraphrase
    request = _sample(recommender, case.query, side, "continued")
    assert request.choice is not None
    room = recommender.max_model_len - len(request.prompt_ids) - request.choice.num_tokens
    given = tuple(encode_text(recommender.tokenizer, text))[: max(room, 0)]
    left = max(request.max_new_tokens - len(given), request.choice.num_tokens)
    written = replace(request, prompt_ids=(*request.prompt_ids, *given), max_new_tokens=left)
    return Trial(name, case, written, named)


def _sample(recommender: Recommender, query: Query, side: Side, name: str) -> GenerationRequest:
    """A request as in the evaluation, with a seed of its own."""
    request = recommender.build_request(query, side)
    seed = request_seed(recommender.config.seed, f"{query.key}#{name}", side)
    return replace(request, seed=seed)
