"""``judge_0_100``: a language model's mark of how well a reasoning agrees with its reference.

Papers on recommendation call such a mark GPTScore (introduced by XRec). Here it is made reliable by
an integer that a schema enforces, temperature 0, several votes, and anchors whose order is known.
If a judge misorders the anchors, no reasoning is marked. Votes are saved as they arrive, so none is
paid for twice.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any, get_args
from urllib.parse import urlsplit

import openai

from msrrec.config import JudgeConfig
from msrrec.errors import EngineError, first_line
from msrrec.journal import Journal
from msrrec.log import Progress
from msrrec.metrics.scores import Anchor, Judged, JudgeFacts, Pair
from msrrec.prices import token_cost
from msrrec.reasoning.prompts import render_judge_prompt

_SCHEMA = {
    "name": "mark",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}},
        "required": ["score"],
        "additionalProperties": False,
    },
}
_CODE = "def f(x):\n    return [i ** 2 for i in range(x) if i % 3]\n"
"""A text that is no reasoning at all, used as the lowest anchor."""
_NUM_ANCHORS = 5

Key = tuple[str, int]
"""Hash of model and prompt, and number of the vote."""


@dataclass(frozen=True)
class Vote:
    """One vote of the judge; ``score`` is None if its completion could not be read."""

    key: str
    vote: int
    score: int | None
    prompt_tokens: int
    completion_tokens: int


def read_score(text: str) -> int | None:
    """The integer from 0 to 100 in ``{"score": n}``, or None for any other text."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    score = found.get("score") if isinstance(found, dict) else None
    if not isinstance(score, int) or isinstance(score, bool):
        return None
    return score if 0 <= score <= 100 else None


def anchor_pairs(references: Sequence[str]) -> dict[Anchor, list[Pair]]:
    """Pairs with a known order: a reference with itself, with another user's, and with code."""
    first = list(dict.fromkeys(references))[:_NUM_ANCHORS]
    others = [*first[1:], *first[:1]] if len(first) > 1 else []
    return {
        "itself": [(text, text) for text in first],
        "another user's": list(zip(others, first, strict=False)),
        "code": [(_CODE, text) for text in first],
    }


def judge_pairs(
    pairs: Sequence[Pair], config: JudgeConfig, journal: str, api_key: str | None
) -> Judged:
    """The median mark of every pair, its spread over votes, and facts about the judge.

    Args:
        pairs: Pairs of hypothesis and reference.
        config: The judge; ``base_url`` and ``model`` are set.
        journal: Folder where votes are saved.
        api_key: API key; None if the server needs none.

    Raises:
        EngineError: If the judge can't be reached, or misorders the anchors.
    """
    panel = _Panel(config, journal, api_key)
    anchors = anchor_pairs([reference for _, reference in pairs])
    panel.ask([pair for group in anchors.values() for pair in group])
    means = {name: _mean([panel.mark(p)[0] for p in group]) for name, group in anchors.items()}
    _check_anchors(means, config)
    panel.ask(pairs)
    marks = [panel.mark(pair) for pair in pairs]
    spread = _mean([spread for mark, spread in marks if mark is not None])
    return Judged([mark for mark, _ in marks], panel.facts(spread, means))


def _check_anchors(means: dict[Anchor, float | None], config: JudgeConfig) -> None:
    own, other, code = (means[name] for name in get_args(Anchor))
    middle = code if other is None else other  # a single user has no other
    if own is None or code is None or middle is None or not own > middle >= code:
        marks = ", ".join(f"{name} {mark}" for name, mark in means.items())
        raise EngineError(
            f"judge.model={config.model}: misorders texts whose order is known ({marks}); expected "
            "a reference against itself above another user's above code; choose another judge"
        )


class _Panel:
    """The votes of one judge: saved ones, and those still to be requested."""

    def __init__(self, config: JudgeConfig, journal: str, api_key: str | None) -> None:
        self._config, self._journal, self._api_key = config, Journal(journal), api_key
        self._votes = {(vote.key, vote.vote): vote for vote in _iter_votes(self._journal)}
        self._asked: set[Key] = set()

    def ask(self, pairs: Sequence[Pair]) -> None:
        """Request the votes on these pairs that do not exist yet."""
        prompts = {self._key(pair): render_judge_prompt(*pair) for pair in pairs}
        wanted = [(key, n) for key in prompts for n in range(self._config.votes)]
        self._asked.update(wanted)
        missing = [key for key in wanted if key not in self._votes]
        if missing:
            asyncio.run(self._ask_all(missing, prompts))

    def mark(self, pair: Pair) -> tuple[float | None, float]:
        """The median of a pair's votes, and the difference of the highest and lowest."""
        key = self._key(pair)
        votes = [self._votes[key, n].score for n in range(self._config.votes)]
        scores = [score for score in votes if score is not None]
        return (median(scores), max(scores) - min(scores)) if scores else (None, 0.0)

    def facts(self, spread: float | None, anchors: dict[Anchor, float | None]) -> JudgeFacts:
        """Calls, unreadable completions, tokens and cost of all votes in this result."""
        votes = [self._votes[key] for key in self._asked]
        prompt, completion = (
            sum(getattr(vote, name) for vote in votes)
            for name in ("prompt_tokens", "completion_tokens")
        )
        prices = self._config.prompt_price, self._config.completion_price
        return JudgeFacts(
            model=self._config.model,
            votes=self._config.votes,
            spread=spread,
            anchors=anchors,
            num_calls=len(votes),
            failure_rate=sum(vote.score is None for vote in votes) / max(len(votes), 1),
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=token_cost(prompt, completion, *prices),
        )

    def _key(self, pair: Pair) -> str:
        text = f"{self._config.model}\x1f{render_judge_prompt(*pair)}"
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]

    async def _ask_all(self, missing: Sequence[Key], prompts: dict[str, str]) -> None:
        """Request votes in concurrent rounds; each round is saved before the next begins."""
        size = self._config.concurrency
        async with _client(self._config, self._api_key) as client:
            with Progress("judge", len(missing), "votes") as progress:
                for start in range(0, len(missing), size):
                    batch = missing[start : start + size]
                    calls = (self._ask_one(client, prompts[key], key, n) for key, n in batch)
                    votes = await asyncio.gather(*calls)
                    self._keep(votes)
                    progress.advance(len(votes))

    async def _ask_one(
        self, client: openai.AsyncOpenAI, prompt: str, key: str, number: int
    ) -> Vote:
        bound: Any = {"type": "json_object"}
        if self._config.response_format == "json_schema":
            bound = {"type": "json_schema", "json_schema": _SCHEMA}
        try:
            completion = await client.chat.completions.create(
                model=self._config.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                seed=number,
                max_tokens=self._config.max_tokens,
                response_format=bound,
            )
        except openai.OpenAIError as error:
            raise EngineError(
                f"judge.base_url={self._config.base_url}: no vote ({first_line(error)}); "
                f"check judge.base_url, judge.model and {self._config.api_key_env}; votes so far "
                "are kept, run again"
            ) from error
        text = completion.choices[0].message.content if completion.choices else None
        usage = completion.usage
        return Vote(
            key,
            number,
            read_score(text or ""),
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    def _keep(self, votes: Sequence[Vote]) -> None:
        lines = "".join(json.dumps(asdict(vote)) + "\n" for vote in votes)
        self._journal.add_file(lines.encode())
        self._votes |= {(vote.key, vote.vote): vote for vote in votes}


def _client(config: JudgeConfig, api_key: str | None) -> openai.AsyncOpenAI:
    is_loopback = urlsplit(config.base_url or "").hostname in ("127.0.0.1", "localhost", "::1")
    return openai.AsyncOpenAI(
        base_url=config.base_url,
        api_key=api_key or "none",  # local servers need no key, but the client does
        max_retries=config.max_retries,
        timeout=config.timeout_s,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback else None,
    )


def _iter_votes(journal: Journal) -> Iterator[Vote]:
    """The saved votes; an unreadable line is skipped, so its vote is requested again."""
    for line in journal.iter_lines():
        with contextlib.suppress(ValueError, TypeError):
            yield Vote(**json.loads(line))


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None
