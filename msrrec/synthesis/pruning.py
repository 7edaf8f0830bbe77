"""Which completions become training data, and why others do not (paper, Reasoning Data Pruning).

The verdict is a pure function of a completion and its example, so a changed rule applies to an old
journal without any call.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msrrec.data.leakage import find_leak
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import (
    Chain,
    ParsedCompletion,
    ParseFailure,
    Reason,
    parse_answer,
    parse_completion,
    strip_thinking,
)
from msrrec.reasoning.prompts import sanitize_step
from msrrec.synthesis.journal import JournalEntry
from msrrec.titles import REASONING_END, fold_text, match_title

Verdict = Literal["kept", "inconsistent", "truncated", "refused", "leaked"] | Reason

_MAX_TITLES = 2
"""Maximum number of steps that may consist of a title only; with more, the text is a list and not
reasoning."""

_OPENING_CHARS = 200
_REFUSAL = re.compile(
    r"\W{0,9}(?:i'?m (?:very |really |so )?sorry|i am sorry|sorry,|i apologi[sz]e|i can'?t |"
    r"i cannot |i'm (?:unable|not able)|i am (?:unable|not able)|as an ai\b|抱歉|很抱歉|对不起|"
    r"lo siento|je suis désolé|es tut mir leid|申し訳|죄송|извините)"
)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one completion.

    Attributes:
        verdict: ``kept``, or the reason why not.
        detail: Further detail, such as which step is missing or how many candidates are named.
        steps: The five steps, one line each, if they could be read.
        index: 0-based candidate that step 5 names, if any.
    """

    verdict: Verdict
    detail: str = ""
    steps: tuple[str, ...] = ()
    index: int | None = None

    @property
    def is_retryable(self) -> bool:
        """Whether another sample may be requested.

        Only if the completion could not be read. A readable completion is final: whether it is kept
        depends on the target, and drawing samples until one is kept would leak the target.
        """
        return self.verdict not in ("kept", "inconsistent", "leaked")


def judge(
    entry: JournalEntry,
    candidates: Sequence[str],
    target: int,
    history: Sequence[str] = (),
    later: Sequence[str] = (),
) -> Judgement:
    """The verdict on a completion: is it complete and consistent, and free of leaks?

    The chain is read from the completion. If that has no steps at all, it is read from the hidden
    reasoning, as some servers put the whole output there. Hidden reasoning without named steps is
    never training data.

    Args:
        entry: The completion.
        candidates: Titles in the frozen order.
        target: 0-based index of the target.
        history: Titles that the prompt shows.
        later: Titles of the user's held-out items.
    """
    text, read = _read(entry)
    if entry.finish_reason == "content_filter":
        return Judgement("refused", "content filter")
    if entry.finish_reason == "length" and REASONING_END not in text:
        return Judgement("truncated", f"{entry.sampling.max_tokens} tokens")
    if isinstance(read.chain, ParseFailure):
        opening = fold_text(strip_thinking(text)[:_OPENING_CHARS])
        if read.chain.reason == "malformed" and _REFUSAL.match(opening):
            return Judgement("refused")
        return Judgement(read.chain.reason, read.chain.detail)
    steps = tuple(sanitize_step(step) for step in read.chain.steps)
    shown = (*candidates, *history)
    if sum(match_title(step, shown) is not None for step in steps[:-1]) > _MAX_TITLES:
        return Judgement("malformed", "a list of titles", steps)
    choice = parse_recommendation(read.chain.steps[-1], candidates)
    if isinstance(choice, ParseFailure):
        return Judgement(choice.reason, choice.detail, steps)
    named = parse_answer(read.answer, candidates) if read.answer else None
    if named is not None and named != choice:
        return Judgement("inconsistent", "step 5 and answer differ", steps, choice)
    if choice != target:
        return Judgement("inconsistent", "not the target", steps, choice)
    leak = find_leak(steps, candidates, target, history, later)
    return (
        Judgement("leaked", leak, steps, choice) if leak else Judgement("kept", "", steps, choice)
    )


def _read(entry: JournalEntry) -> tuple[str, ParsedCompletion]:
    """The text that counts, and that text parsed."""
    read = parse_completion(entry.text)
    if isinstance(read.chain, ParseFailure) and read.chain.reason in ("empty", "malformed"):
        thought = entry.reasoning_content or ""
        inside = parse_completion(thought)
        if isinstance(inside.chain, Chain):
            return thought, ParsedCompletion(inside.chain, inside.answer or entry.text or None)
    return entry.text, read
