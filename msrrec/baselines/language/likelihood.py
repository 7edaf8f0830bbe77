"""The untuned backbone as a ranker: how likely each title is as the next line of the history.

No list of candidates is shown and nothing is generated. ``lm-likelihood`` is the logarithm of
P(title | history). ``lm-gain`` subtracts that of P(title), the same without a history, so that
titles that are likely anywhere have no advantage. A title's end, the line break, counts too.
"""

import math
from collections.abc import Mapping, Sequence

from msrrec.baselines.language.generation import OutputSpec
from msrrec.baselines.language.tuning import TIED, Tuned, drop_unfit, encode_beginning
from msrrec.config import RunConfig
from msrrec.reasoning.encoding import Query, encode_text, shorten
from msrrec.reasoning.prompts import render_heading, render_line
from msrrec.schema import Example


class Likelihood(Tuned):
    """Scores are log-likelihoods of titles after the history, or what the history adds to them."""

    section = "tallrec"  # its settings are not used, as nothing is trained

    def __init__(self, config: RunConfig, *, gain: bool) -> None:
        """Subtract the likelihood without a history if ``gain``."""
        super().__init__(config, trains=False)
        self._gain = gain

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """One score per candidate; all 0 where the prompt of the example does not fit."""
        queries = [self.query(example) for example in examples]
        lines = {title: self.line(title) for query in queries for title in query.candidates}
        room = self.max_tokens - max(map(len, lines.values()), default=0)
        heads: dict[int, list[int]] = {}
        for place, query in enumerate(queries):
            with drop_unfit(TIED):
                heads[place], _ = self.prompt(query, room)
        asked = [(head, t) for place, head in heads.items() for t in queries[place].candidates]
        after = iter(self._score_lines(asked, lines))
        before = self._score_alone(queries, lines) if self._gain else {}
        return [
            [next(after) - before.get(t, 0.0) if place in heads else 0.0 for t in query.candidates]
            for place, query in enumerate(queries)
        ]

    def _score_alone(
        self, queries: Sequence[Query], lines: Mapping[str, Sequence[int]]
    ) -> dict[str, float]:
        """The log-likelihood of every title without a history."""
        asked = [(self.head(queries[0].domain), title) for title in lines]
        return dict(zip(lines, self._score_lines(asked, lines), strict=True))

    def _score_lines(
        self, asked: Sequence[tuple[Sequence[int], str]], lines: Mapping[str, Sequence[int]]
    ) -> list[float]:
        """The summed log-probability of each title's line after the tokens before it."""
        prompts = [[*head, *lines[title]] for head, title in asked]
        longest = max((len(lines[title]) for _, title in asked), default=0)
        scored = self.generate(prompts, OutputSpec(num_scored=longest))
        return [
            math.fsum(logprobs[-len(lines[title]) :])
            for logprobs, (_, title) in zip(scored, asked, strict=True)
        ]

    def head(self, domain: str) -> list[int]:
        """Token ids of the text before the history, the beginning-of-text token included."""
        heading = render_heading(domain)
        return [*encode_beginning(self.tokenizer), *encode_text(self.tokenizer, heading)]

    def line(self, title: str) -> list[int]:
        """Token ids of a title's line, which are the same in the history and as what is scored."""
        return encode_text(self.tokenizer, render_line(title))

    def prompt(self, query: Query, room: int) -> tuple[list[int], int]:
        """Token ids of head and history within a limit, and how many titles were left out."""
        head, lines = self.head(query.domain), [self.line(title) for title in query.history]

        def encode(dropped: int) -> list[int]:
            return [*head, *(token for line in lines[dropped:] for token in line)]

        return shorten(encode, query, room)
