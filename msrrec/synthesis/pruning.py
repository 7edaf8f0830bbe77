"""Which completions become training data, and why others do not (paper, Reasoning Data Pruning).

The verdict is a pure function of a completion and its example, so a changed rule applies to an old
journal without any call.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from msrrec.data.leakage import find_leak
from msrrec.reasoning.choice import Rule, parse_recommendation, read_recommendation
from msrrec.reasoning.parsing import (
    ParsedCompletion,
    ParseFailure,
    Reason,
    parse_answer,
    parse_completion,
)
from msrrec.reasoning.prompts import sanitize_step
from msrrec.synthesis.journal import JournalEntry
from msrrec.titles import fold_text, match_title

Verdict = Literal["kept", "inconsistent", "truncated", "refused", "leaked"] | Reason

_MAX_TITLES = 2
"""Maximum number of steps that may consist of a title only; with more, the text is a list and not
reasoning."""

_ENDED = ("", "stop", "eos", "eos_token", "end_turn")
"""Finish reasons of a text that the model ended itself; any other means that it was cut."""
_FILTERED = (
    *("content_filter", "safety", "prohibited_content", "recitation", "blocklist", "spii"),
    *("sensitive", "refusal"),
)
"""Finish reasons of a text that a filter withheld."""

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
        rule: The rule of ``read_recommendation`` by which step 5 names it, if any.
    """

    verdict: Verdict
    detail: str = ""
    steps: tuple[str, ...] = ()
    index: int | None = None
    rule: Rule | None = None

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

    What was said outside the model's thoughts decides, and of two answers the last. A chain that
    stands in the thoughts alone counts only where the answer said after them names its choice.
    Thoughts after which nothing was said are truncated, and so is a text that ends before its
    reasoning does for another reason than that the model ended it.

    Args:
        entry: The completion.
        candidates: Titles in the frozen order.
        target: 0-based index of the target.
        history: Titles that the prompt shows.
        later: Titles of the user's held-out items.
    """
    read = parse_completion(entry.text, thinking=entry.reasoning_content or "")
    unread = _find_flaw(entry, read)
    if unread is not None or isinstance(read.chain, ParseFailure):
        return unread or Judgement("malformed")
    steps = tuple(sanitize_step(step) for step in read.chain.steps)
    shown = (*candidates, *history)
    if sum(match_title(step, shown) is not None for step in steps[:-1]) > _MAX_TITLES:
        return Judgement("malformed", "a list of titles", steps)
    choice = read_recommendation(read.chain.steps[-1], candidates)
    if isinstance(choice, ParseFailure):
        return Judgement(choice.reason, choice.detail, steps)
    named = _read_named(read, candidates)
    if read.is_thought and named is None:
        return Judgement("malformed", "the steps were only thought", steps)
    found = Judgement("kept", "", steps, choice.index, choice.rule)
    if named is not None and named != choice.index:
        return replace(found, verdict="inconsistent", detail="step 5 and answer differ")
    if choice.index != target:
        return replace(found, verdict="inconsistent", detail="not the target")
    leak = find_leak(steps, candidates, target, history, later)
    return replace(found, verdict="leaked", detail=leak) if leak else found


def _find_flaw(entry: JournalEntry, read: ParsedCompletion) -> Judgement | None:
    """Why a completion holds no whole chain; None where it does."""
    reason = entry.finish_reason.casefold()
    is_cut = reason not in _ENDED
    if reason in _FILTERED:
        return Judgement("refused", "content filter")
    if is_cut and (read.is_open or read.answer is None or not read.speech):
        is_long = reason in ("length", "max_tokens")
        return Judgement(
            "truncated", f"{entry.sampling.max_tokens} tokens" if is_long else entry.finish_reason
        )
    if read.is_silent:
        return Judgement("truncated", "thoughts alone")
    if not isinstance(read.chain, ParseFailure):
        return None
    opening = fold_text(read.speech[:_OPENING_CHARS])
    if read.chain.reason == "malformed" and _REFUSAL.match(opening):
        return Judgement("refused")
    return Judgement(read.chain.reason, read.chain.detail)


def _read_named(read: ParsedCompletion, candidates: Sequence[str]) -> int | None:
    """The candidate that the answer beside the chain names.

    Beside a chain that was only thought, the answer is all that was said, and is read as prose.
    """
    if not read.answer:
        return None
    named = parse_answer(read.answer, candidates)
    if named is not None or not read.is_thought:
        return named
    found = parse_recommendation(read.answer, candidates)
    return None if isinstance(found, ParseFailure) else found
