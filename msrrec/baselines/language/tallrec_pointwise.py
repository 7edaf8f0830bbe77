"""TALLRec in its original form (Bao et al. 2023): Yes or No for each candidate.

Candidates are ranked by the probability of Yes against No as the next token. Each training example
gives two prompts: its target with Yes, and one of its negatives with No.
"""

import random
from collections.abc import Sequence
from typing import Any

from msrrec.baselines.language.alpaca import encode_frame, quote
from msrrec.baselines.language.generation import OutputSpec
from msrrec.baselines.language.tuning import TIED, Tuned, drop_unfit, join
from msrrec.config import RunConfig
from msrrec.errors import ModelError
from msrrec.reasoning.encoding import Query, encode_text, shorten
from msrrec.schema import Example
from msrrec.training.examples import Encoded

INSTRUCTION = (
    "Given the user's preference, identify whether the user will like the target item by answering "
    '"Yes." or "No.".'
)
SHORT_INSTRUCTION = 'Will the user like the target item? Answer "Yes." or "No.".'
YES, NO = "Yes.", "No."


class TallrecPointwise(Tuned):
    """The pointwise TALLRec baseline."""

    section = "tallrec"

    def __init__(self, config: RunConfig, *, trains: bool = True) -> None:
        super().__init__(config, trains=trains)
        self.learns_prompts = config.tallrec.train_on_inputs

    def encode_training(self, example: Example) -> list[Encoded]:
        """The prompt of the target with Yes, and of a negative with No."""
        query, target = self.query(example), example.candidates.index(example.target)
        others = [n for n in range(len(query.candidates)) if n != target]
        draw = random.Random(f"{self.training.seed}:{example.example_id}")
        asked = [(target, YES), *((n, NO) for n in draw.sample(others, min(1, len(others))))]
        room = self.max_tokens - max(len(encode_text(self.tokenizer, a)) for a in (YES, NO)) - 1
        return [
            join(self.tokenizer, *self.prompt(query, n, room), answer, whole=self.learns_prompts)
            for n, answer in asked
        ]

    def prompt(self, query: Query, index: int, room: int) -> tuple[list[int], int]:
        """Token ids about one candidate within a limit, and how many titles were left out."""
        instruction = SHORT_INSTRUCTION if self.form.instruction == "short" else INSTRUCTION

        def encode(dropped: int) -> list[int]:
            lines = render_input(query.history[dropped:], query.candidates[index])
            return encode_frame(self.tokenizer, instruction, lines, self.form)

        return shorten(encode, query, room)

    def score(self, examples: Sequence[Example]) -> list[list[float]]:
        """P(Yes) of every candidate; all 0 if a prompt of the example does not fit."""
        before, *ids = find_answers(self.tokenizer)
        room = self.max_tokens - len(before) - 1
        prompts: dict[int, list[list[int]]] = {}
        for place, query in enumerate(map(self.query, examples)):
            with drop_unfit(TIED):
                count = range(len(query.candidates))
                prompts[place] = [[*self.prompt(query, n, room)[0], *before] for n in count]
        flat = [prompt for some in prompts.values() for prompt in some]
        yes = iter(p for p, _ in self.generate(flat, OutputSpec(choices=(ids[0][0], ids[1][0]))))
        return [
            [next(yes) if place in prompts else 0.0 for _ in example.candidates]
            for place, example in enumerate(examples)
        ]


def render_input(history: Sequence[str], target: str) -> list[str]:
    """The lines of the input; history oldest first."""
    return [
        f"User Preference: {quote(history)}",
        f"Whether the user will like the target item {quote([target])}?",
    ]


def find_answers(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Token ids that both answers begin with, and those that differ for Yes and for No.

    Raises:
        ModelError: If the tokenizer does not distinguish the answers.
    """
    yes, no = encode_text(tokenizer, YES), encode_text(tokenizer, NO)
    shared = next((n for n, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
    if shared is None:
        raise ModelError(
            f"the tokenizer writes {YES!r} as {yes} and {NO!r} as {no}; expected token ids that "
            "differ at one place; use another backbone"
        )
    return yes[:shared], yes[shared:], no[shared:]
