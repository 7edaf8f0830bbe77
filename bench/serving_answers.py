"""The service's own logits processor for a plain ``vllm serve``, whose requests carry flat lists.

``vllm serve`` takes it by ``--logits-processors``. vLLM's structured outputs could bind an answer
too, but compile a grammar for every request's titles; this is what costs the least.
"""

from collections.abc import Sequence
from typing import Any

from msrrec.engines.answer_processor import AnswerProcessor
from msrrec.engines.vllm import ANSWERS
from msrrec.reasoning.encoding import AnswerChoice

FLAT = "flat_answers"
"""The key of ``vllm_xargs`` that carries an ``AnswerChoice``."""

_BREAK = -1


def flatten(choice: AnswerChoice) -> list[int]:
    """The closing and each answer, one after the other."""
    flat = list(choice.closing)
    for answer in choice.answers:
        flat += [_BREAK, *answer]
    return flat


def unflatten(flat: Sequence[int]) -> AnswerChoice:
    """The inverse of ``flatten``."""
    parts: list[list[int]] = [[]]
    for token_id in flat:
        if token_id == _BREAK:
            parts.append([])
        else:
            parts[-1].append(int(token_id))
    closing, *answers = map(tuple, parts)
    return AnswerChoice(closing, tuple(answers))


class FlatAnswers(AnswerProcessor):
    """Reads the answers of a request as HTTP carries them."""

    def _new_row(self, params: Any, prompt_ids: list[int] | None, output_ids: list[int]) -> Any:
        extra = params.extra_args or {}
        if FLAT in extra:
            choice = unflatten(extra.pop(FLAT))
            extra[ANSWERS] = {"closing": choice.closing, "answers": choice.answers}
        return super()._new_row(params, prompt_ids, output_ids)
