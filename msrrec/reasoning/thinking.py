"""What a model thought and what it said, told apart in every spelling that models and servers use.

One reading for all of them. A thought goes from its opening mark to the closing mark of its own
kind, or to the end of the text. Where a closing mark stands alone, the prompt's template held the
opening one, and everything before it was thought. What remains was said, and it alone decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from msrrec.markup import MARK, WRAPPER, iter_marks

_NEED_OPENING = ("details", "phrase", "bare", "channel_end", "im")
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
    speech = WRAPPER.sub("\n", "".join(said))
    return Thinking(strip_marks("\n".join(thoughts)), speech, bool(kind) or is_introduced)


def strip_marks(text: str) -> str:
    """The text without any mark of thoughts or of what was said."""
    return WRAPPER.sub("\n", MARK.sub("\n", text)).strip()


def _closes(closing: str, opening: str) -> bool:
    """Whether a closing mark ends a thought of that kind; harmony has several for one."""
    harmony = ("channel", "channel_end", "bare")
    return closing == opening or (closing in harmony and opening in harmony)


def _iter_marks(text: str) -> Iterator[_Mark]:
    for match in iter_marks(text):
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
