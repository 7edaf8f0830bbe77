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
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import get_args

from msrrec import storage
from msrrec.chat.client import ChatClient
from msrrec.chat.completions import Completion
from msrrec.chat.failures import CallFailed, TryAgain, shorten
from msrrec.chat.keys import require_key
from msrrec.config import JudgeConfig
from msrrec.errors import EngineError
from msrrec.journal import Journal
from msrrec.log import Progress
from msrrec.metrics.marks import read_score
from msrrec.metrics.scores import Anchor, Judged, JudgeFacts, Pair
from msrrec.prices import token_cost
from msrrec.reasoning.prompts import render_judge_prompt

logger = logging.getLogger(__name__)

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
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0

Key = tuple[str, int]
"""Hash of model, prompt and changed parameters, and the number of the vote."""


@dataclass(frozen=True)
class Vote:
    """One completion of the judge.

    Attributes:
        score: The mark from 0 to 100; None where it could not be read.
        completion_tokens: 0 where no completion came at all.
        text: The first characters of what could not be read; empty where there is a mark.
    """

    key: str
    vote: int
    score: int | None
    prompt_tokens: int
    completion_tokens: int
    text: str = ""


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
        ConfigError: If votes are missing, and the judge's key too.
        EngineError: If the judge can't be reached, gives no mark that can be read, or misorders
            the anchors.
        OSError: If the votes can't be written.
    """
    panel = _Panel(config, journal, api_key)
    anchors = anchor_pairs([reference for _, reference in pairs])
    panel.ask([pair for group in anchors.values() for pair in group])
    means = {name: _mean([panel.mark(p)[0] for p in group]) for name, group in anchors.items()}
    _check_anchors(means, config, panel.unread())
    panel.ask(pairs)
    marks = [panel.mark(pair) for pair in pairs]
    spread = _mean([spread for mark, spread in marks if mark is not None])
    return Judged([mark for mark, _ in marks], panel.facts(spread, means))


def _check_anchors(
    means: dict[Anchor, float | None], config: JudgeConfig, unread: Sequence[Vote]
) -> None:
    own, other, code = (means[name] for name in get_args(Anchor))
    middle = code if other is None else other  # with one user there is no other's text
    if own is None or code is None or middle is None:
        last = f", the last: {unread[-1].text!r}" if unread else ""
        raise EngineError(
            f"judge.model={config.model}: gives no mark that can be read ({len(unread)} votes"
            f'{last}); expected {{"score": n}} with n from 0 to 100; check judge.base_url, '
            "judge.response_format and judge.max_tokens, or choose another judge"
        )
    if not own > middle >= code:
        marks = ", ".join(f"{name} {mark}" for name, mark in means.items())
        raise EngineError(
            f"judge.model={config.model}: misorders texts whose order is known ({marks}); expected "
            "a reference against itself above another user's above code; choose another judge"
        )


class _Panel:
    """The votes of one judge: saved ones, and those still to be requested."""

    def __init__(self, config: JudgeConfig, journal: str, api_key: str | None) -> None:
        self._config, self._journal, self._api_key = config, Journal(journal), api_key
        self._folder = journal
        if num := self._journal.compact():
            logger.info("%s: joined %d small files", storage.shown(journal), num)
        self._votes = {(vote.key, vote.vote): vote for vote in _iter_votes(self._journal)}
        self._asked: set[Key] = set()
        self._unwritten: list[Vote] = []
        self._is_begun = False

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
        if self._config.variation:
            text += "\x1f" + json.dumps(self._config.variation, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]

    def unread(self) -> list[Vote]:
        """The votes asked for so far that hold no mark."""
        votes = [self._votes[key] for key in sorted(self._asked)]
        return [vote for vote in votes if vote.score is None]

    async def _ask_all(self, missing: Sequence[Key], prompts: dict[str, str]) -> None:
        """Calls side by side, each vote on the disk as it comes; the first error ends them.

        Calls that are in flight then may still be answered, and are paid for: they are kept too.
        """
        require_key("judge", self._config, self._api_key)
        room = asyncio.Semaphore(self._config.concurrency)
        client = ChatClient(
            "judge", self._config, self._api_key, self._config.timeout_s, kept="votes"
        )
        failures: list[Exception] = []
        writing = asyncio.Lock()

        async def vote(key: str, number: int) -> None:
            async with room:
                if failures:
                    return
                try:
                    found = await self._ask_one(client, prompts[key], key, number)
                    self._unwritten.append(found)
                    async with writing:  # whoever held it before may have written this one already
                        await self._write()
                except (EngineError, OSError) as error:
                    failures.append(error)
                progress.advance(1)

        try:
            with Progress("judge", len(missing), "votes") as progress:
                await asyncio.gather(*(vote(key, number) for key, number in missing))
        finally:
            await client.close()
        if failures:
            raise failures[0]

    async def _ask_one(self, client: ChatClient, prompt: str, key: str, number: int) -> Vote:
        """One vote; without a mark where the answer, after all tries, can't be read."""
        try:
            found = await self._complete(client, prompt, number)
        except CallFailed as error:
            return Vote(key, number, None, 0, 0, str(error))
        except TryAgain as error:
            if error.is_unreadable:
                return Vote(key, number, None, 0, 0, shorten(str(error)))
            raise EngineError(
                f"judge.base_url={self._config.base_url}: no vote ({error}); check judge.base_url, "
                f"judge.model and {self._config.api_key_env}; votes so far are kept, run again"
            ) from error
        score = read_score(found.text)
        text = "" if score is not None else shorten(found.text) or found.finish_reason
        prompt_tokens, completion_tokens = (
            int(found.usage.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")
        )
        return Vote(key, number, score, prompt_tokens, completion_tokens, text)

    async def _complete(self, client: ChatClient, prompt: str, number: int) -> Completion:
        """The judge's completion; tried again with exponential backoff, or after what it asks."""
        bound: dict[str, object] = {"type": "json_object"}
        if self._config.response_format == "json_schema":
            bound = {"type": "json_schema", "json_schema": _SCHEMA}
        parameters = {
            "temperature": 0,
            "seed": number,
            "max_tokens": self._config.max_tokens,
            "response_format": bound,
        }
        for tries in range(self._config.max_retries):
            try:
                return await client.complete(prompt, parameters)
            except TryAgain as error:
                delay_s = min(_FIRST_DELAY_S * 2**tries, _LONGEST_DELAY_S)
                await asyncio.sleep(min(max(delay_s, error.wait_s), _LONGEST_DELAY_S))
        return await client.complete(prompt, parameters)

    async def _write(self) -> None:
        """Write the votes that have come since the last write."""
        votes, self._unwritten = self._unwritten, []
        if votes:
            lines = "".join(json.dumps(asdict(vote)) + "\n" for vote in votes).encode()
            if not self._is_begun:
                storage.make_folder(self._folder)
                self._is_begun = True
            await asyncio.to_thread(self._journal.append, lines)
            self._votes |= {(vote.key, vote.vote): vote for vote in votes}


def _iter_votes(journal: Journal) -> Iterator[Vote]:
    """The votes so far; without those that are asked for again.

    Those are torn or foreign lines, and votes for which no completion came, so that none was paid.
    """
    for line in journal.iter_lines():
        with contextlib.suppress(ValueError, TypeError):
            vote = Vote(**json.loads(line))
            if vote.score is not None or vote.completion_tokens:
                yield vote


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None
