"""Every mark that divides what a model writes: the chain's own, and those around its thoughts.

One home for their spellings, so that what is cleaned out of titles and steps is what is read.
"""

import re
from collections.abc import Iterator

REASONING_START = "[reasoning_start]"
REASONING_END = "[reasoning_end]"

_MARKER_WORDS = r"reasoning(?:\\?[_ -])(start|end)"
_MARKER = re.compile(rf"(?:\[|【|<|［)\s?(/?)\s?{_MARKER_WORDS}\s?(?:\]|】|>|］)", re.IGNORECASE)
_NESTED_MARKER = re.compile(
    r"(?<![\[【<［])[\[【<［]+\s*/?\s*(reasoning(?:\\?[_ -])(?:start|end))\s*[\]】>］]+",
    re.IGNORECASE,
)
_NAMES = (
    r"think|thinking|thoughts?|scratchpad|reasoning|analysis|reflection|reflect|inner_monologue|"
    r"chain_of_thought|cot|thought_process|thinking_process|deliberation"
)
_TAG = (
    rf"(?:<|&lt;|＜)\s?(?P<slash>/?)\s?(?:\w{{1,20}}:)?(?P<tag>{_NAMES})"
    r"(?:\s[^<>]{0,200})?(?<!/)(?:>|&gt;|＞)"
)
_DETAILS = (
    r"(?P<details><details\s(?=[^<>]{0,200}\btype\s?=\s?[\"']?reasoning)[^<>]{0,300}>)"
    r"|(?P<details_end></details>)"
)
_BRACKET = r"\[(?P<bracket>/?)THINK\]|◁(?P<triangle>/?)think▷"
_TOKEN = (
    r"(?P<token><\|(?:begin_of_thought|start_thinking|think(?:ing)?)\|>|<\|channel>\s?thought\b)"
    r"|(?P<im><\|im_start\|>\s?(?:think|thinking|analysis)\b)|(?P<im_end><\|im_end\|>)"
    r"|(?P<unused><unused94>\s?thought\b)|(?P<unused_end><unused95>)"
    r"|(?P<final_end>\[BEGIN FINAL RESPONSE\])"
    r"|(?P<token_end><\|(?:end_of_thought|end_thinking|/think(?:ing)?)\|>|<channel\|>)"
)
_CHANNEL = (
    r"(?:<\|start\|>\s?\w{0,20}\s?)?<\|channel\|>\s?(?P<channel>\w{1,20})"
    r"[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
    r"|(?P<channel_end><\|(?:end|call)\|>)"
    r"|(?P<bare>\A\s{0,9}(?-i:analysis(?=[A-Z])))|(?P<bare_end>(?-i:assistant ?final))"
)
"""Channels of OpenAI's harmony format, the last two where a server has removed its tokens."""
_PHRASE = (
    r"(?P<phrase>\A\W{0,9}here(?:['’]s| is) (?:my|the) (?:thought|thinking) process[*_]{0,3}:"
    r"|\A\s{0,9}thinking\.{3}(?=\n)"
    r"|\A[\s#*_]{0,9}(?:thinking|thoughts?|(?:thought|thinking) process)"
    r"[*_]{0,3}:[*_ ]{0,4}(?=\r?\n))"
    r"|(?P<phrase_end>^\W{0,9}here(?:['’]s| is) (?:my|the) (?:final )?(?:response|answer)[*_]{0,3}:"
    r"|^[\s#*_]{0,9}final (?:response|answer)[*_]{0,3}:[*_]{0,3}"
    r"|^\.{3}done thinking\.)"
)
_HINTS = (
    *("<", "＜", "&lt;", "◁", "[begin final", "assistantfinal", "assistant final"),
    *("think", "thought", "response", "answer"),
)
"""Folded text without any of these holds no mark, but for ``analysis`` at its beginning; looking
for them is far faster."""
MARK = re.compile(
    "|".join((_TAG, _DETAILS, _BRACKET, _TOKEN, _CHANNEL, _PHRASE)), re.IGNORECASE | re.MULTILINE
)
WRAPPER = re.compile(
    r"</?(?:answer|response|output|solution|final|final_answer)>"
    r"|<\|(?:start\|>\s?assistant\b|im_start\|>\s?(?:assistant|answer)?\b|return\|>|end\|>|im_end\|>|eot_id\|>|end_?of_?text\|>"
    r"|(?:begin|end)_of_solution\|>|(?:start|end)_(?:response|text)\|>)|\[END FINAL RESPONSE\]",
    re.IGNORECASE,
)
"""Marks around what was said."""

_OPENERS = frozenset("<＜[【［◁&")
_NO_OPENERS = dict.fromkeys(map(ord, _OPENERS), " ")
_MAX_PASSES = 8
"""Marks that are nested deeper than this are nested on purpose."""
_SPOKEN = r"answer|response|output|solution|final|final_answer"
_BREAKABLE = re.compile(
    rf"(?:<|＜|&lt;)(\s?/?\s?(?:\w{{1,20}}:)?(?:{_NAMES})(?![\w-])(?:(?!&gt;)[^<>＜＞]){{0,200}})(?:[>＞]|&gt;)?"
    rf"|<(/?(?:details(?=\s|>)[^<>]{{0,300}}|(?:{_SPOKEN})|channel\||unused9[45]))>"
    r"|<(\|[^<>|]{0,40}\|?)>?|\[(/?think|(?:begin|end) final response)\]|◁(/?think)▷",
    re.IGNORECASE,
)


def iter_marks(text: str) -> Iterator[re.Match[str]]:
    """The marks of thoughts in a text, in their order."""
    folded = text.casefold()
    may_hold = any(hint in folded for hint in _HINTS) or folded.lstrip().startswith("analysis")
    return MARK.finditer(text) if may_hold else iter(())


def unify_markers(text: str) -> str:
    """The text with every spelling of the chain's markers as the exact one.

    Other brackets, case, spaces, an escaped underscore and a slash are spellings; a slash makes any
    of them the end.
    """
    return _MARKER.sub(
        lambda found: (
            REASONING_END if found.group(1) or found.group(2).lower() == "end" else REASONING_START
        ),
        text,
    )


def break_marks(text: str) -> str:
    """The text without the brackets of all marks in it, so that none divides an output.

    Text without marks stays as it is, and so does text that was broken before. Where marks are
    nested deeper than eight times, all that could begin one is removed.
    """
    if not _OPENERS & set(text):
        return text
    for _ in range(_MAX_PASSES):
        broken = _BREAKABLE.sub(_inside, _NESTED_MARKER.sub(r"\1", text))
        if broken == text:
            return text
        text = broken
    return drop_openers(text)


def drop_openers(text: str) -> str:
    """The text with spaces for all characters that can begin a mark or an entity."""
    return text.translate(_NO_OPENERS)


def _inside(found: re.Match[str]) -> str:
    return next(filter(None, found.groups()), "").strip("|")
