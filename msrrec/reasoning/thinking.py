"""What a model thought and what it said, told apart in every spelling that models and servers use.

One reading for all of them. A thought goes from its opening mark to the closing mark of its own
kind, or to the end of the text. Where a closing mark stands alone, the prompt's template held the
opening one, and everything before it was thought. What remains was said, and it alone decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TAG = (
    r"<\s?(?P<slash>/?)\s?(?:\w{1,20}:)?"
    r"(?P<tag>think|thinking|thoughts?|scratchpad|reasoning|analysis|reflection|reflect)"
    r"(?:\s[^<>]{0,200})?(?<!/)>"
)
_DETAILS = (
    r"(?P<details><details\s(?=[^<>]{0,200}\btype\s?=\s?[\"']?reasoning)[^<>]{0,300}>)"
    r"|(?P<details_end></details>)"
)
_BRACKET = r"\[(?P<bracket>/?)THINK\]|◁(?P<triangle>/?)think▷"
_TOKEN = (
    r"(?P<token><\|(?:begin_of_thought|start_thinking|think(?:ing)?)\|>|<\|channel>\s?thought\b)"
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
    r"|\A\s{0,9}thinking\.{3}(?=\n))"
    r"|(?P<phrase_end>^\W{0,9}here(?:['’]s| is) (?:my|the) (?:final )?(?:response|answer)[*_]{0,3}:"
    r"|^\.{3}done thinking\.)"
)
_MARK = re.compile(
    "|".join((_TAG, _DETAILS, _BRACKET, _TOKEN, _CHANNEL, _PHRASE)), re.IGNORECASE | re.MULTILINE
)
_WRAPPER = re.compile(
    r"</?(?:answer|response|output|solution|final|final_answer)>"
    r"|<\|(?:start\|>\s?assistant\b|return\|>|end\|>|im_end\|>|eot_id\|>|end_?of_?text\|>"
    r"|(?:begin|end)_of_solution\|>|(?:start|end)_(?:response|text)\|>)",
    re.IGNORECASE,
)
"""Marks around what was said."""
_NEED_OPENING = ("details", "phrase", "bare", "channel_end")
"""Closing marks that mean nothing where no thought was opened."""


@dataclass(frozen=True)
class Thinking:
    """A text in its two parts.

    Attributes:
        thinking: The model's thoughts, a line break between them; empty where it has none.
        speech: What it said outside them; empty where it said nothing.
        is_open: Whether the text ends within a thought.
    """

    thinking: str
    speech: str
    is_open: bool


@dataclass(frozen=True)
class _Mark:
    """A mark: its place, its kind, and whether it begins a thought."""

    start: int
    end: int
    kind: str
    opens: bool


def split_thinking(text: str) -> Thinking:
    """The thoughts in a text, and what was said outside them.

    A phrase such as ``Here is my thought process:`` that nothing closes is an introduction: what
    follows was said, unless the text was cut, which ``is_open`` is for.
    """
    thoughts: list[str] = []
    said: list[str] = []
    begin, kind = 0, ""
    marks = list(_iter_marks(text))
    is_answered = any(mark.kind == "phrase" and not mark.opens for mark in marks)
    is_introduced = not is_answered and any(mark.kind == "phrase" for mark in marks)
    for mark in marks:
        if mark.kind == "phrase" and not is_answered:
            continue
        if not kind and (mark.opens or mark.kind not in _NEED_OPENING):
            said.append(text[begin : mark.start])
            if not mark.opens:  # the template held the opening mark
                thoughts.append("".join(said))
                said = []
        elif kind and not mark.opens and _closes(mark.kind, kind):
            thoughts.append(text[begin : mark.start])
        else:
            continue
        begin, kind = mark.end, mark.kind if mark.opens else ""
    (thoughts if kind else said).append(text[begin:])
    speech = _WRAPPER.sub("\n", "".join(said))
    return Thinking(strip_marks("\n".join(thoughts)), speech, bool(kind) or is_introduced)


def strip_marks(text: str) -> str:
    """The text without any mark of thoughts or of what was said."""
    return _WRAPPER.sub("\n", _MARK.sub("\n", text)).strip()


def _closes(closing: str, opening: str) -> bool:
    """Whether a closing mark ends a thought of that kind; harmony has several for one."""
    harmony = ("channel", "channel_end", "bare")
    return closing == opening or (closing in harmony and opening in harmony)


def _iter_marks(text: str) -> Iterator[_Mark]:
    for match in _MARK.finditer(text):
        kind, opens = _read_mark(match)
        yield _Mark(match.start(), match.end(), kind, opens)


def _read_mark(match: re.Match[str]) -> tuple[str, bool]:
    """A mark's kind, and whether it begins a thought."""
    found = match.groupdict()
    if found["tag"]:
        tag = found["tag"].lower()
        return ("think" if tag.startswith("th") else tag), not found["slash"]
    if found["channel"]:
        return "channel", found["channel"].lower() != "final"
    if found["channel_end"]:
        return "channel_end", False
    for name in ("bracket", "triangle"):
        if found[name] is not None:
            return name, not found[name]
    name = match.lastgroup or ""
    return name.removesuffix("_end"), not name.endswith("_end")
