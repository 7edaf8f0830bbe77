"""Which answers become training data (paper, Reasoning Data Pruning), and why the others don't.

A pure function of an answer and its example, so changing a rule here judges an old journal anew
without any call.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import (
    Chain,
    ParseFailure,
    Reason,
    parse_answer,
    parse_chain,
    split_output,
)
from msrrec.reasoning.prompts import defuse
from msrrec.reasoning.titles import REASONING_END
from msrrec.synthesis.journal import Record

Ruling = Literal["kept", "inconsistent", "truncated", "refused"] | Reason

_REFUSAL = re.compile(
    r"\W*(?:i'?m sorry|i am sorry|sorry,|i apologi[sz]e|i can'?t |i cannot |i'm unable|i am unable|"
    r"as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """What became of one answer.

    Attributes:
        ruling: ``kept``, or the one reason why not.
        detail: A word more: which step is missing, how many candidates are named.
        steps: The five steps, one line each, where they could be read.
        index: 0-based candidate of step 5, where one is named.
    """

    ruling: Ruling
    detail: str = ""
    steps: tuple[str, ...] = ()
    index: int | None = None


def judge(record: Record, candidates: Sequence[str], target: int) -> Verdict:
    """Completeness, then consistency.

    The chain is read from the answer. Where that has no steps at all, it is looked for in the
    reasoning content, as some servers put the whole output there; what a reasoning model merely
    thought has no such steps and is never training data.

    Args:
        record: The answer.
        candidates: Titles in the frozen order.
        target: 0-based index of what the user did buy.
    """
    text = record.text
    chain = parse_chain(text)
    if not isinstance(chain, Chain) and chain.reason in ("empty", "malformed"):
        thought = parse_chain(record.reasoning_content or "")
        if isinstance(thought, Chain):
            text, chain = record.reasoning_content or "", thought
    if record.finish_reason == "content_filter":
        return Verdict("refused", "content filter")
    if record.finish_reason == "length" and REASONING_END not in text:
        return Verdict("truncated", f"{record.sampling.max_tokens} tokens")
    if isinstance(chain, ParseFailure):
        if chain.reason == "malformed" and _REFUSAL.match(text):
            return Verdict("refused")
        return Verdict(chain.reason, chain.detail)
    steps = tuple(defuse(step) for step in chain.steps)
    choice = parse_recommendation(chain.steps[-1], candidates)
    if isinstance(choice, ParseFailure):
        return Verdict(choice.reason, choice.detail, steps)
    answer = split_output(text).answer
    named = parse_answer(answer, candidates) if answer else None
    if named is not None and named != choice:
        return Verdict("inconsistent", "step 5 and answer differ", steps, choice)
    if choice != target:
        return Verdict("inconsistent", "not the target", steps, choice)
    return Verdict("kept", "", steps, choice)
