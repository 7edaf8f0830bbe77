"""TALLRec's prompt frame (Bao et al. 2023): Alpaca's instruction, input and response.

The texts around these parts are Alpaca's (tatsu-lab/stanford_alpaca). Titles are in quotes.
Purchases contain no dislikes, so TALLRec's list of unpreferred items is left out.
"""

from collections.abc import Sequence
from typing import Any

from msrrec.baselines.language.tuning import encode_beginning
from msrrec.config import PromptConfig
from msrrec.reasoning.encoding import encode_text
from msrrec.titles import clean_title

_INTRODUCTION = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)


def frame(instruction: str, lines: Sequence[str], form: PromptConfig) -> str:
    """The prompt, up to where the response begins.

    Args:
        instruction: One paragraph.
        lines: The input's lines, evidence first; none of them begins with a heading's ``###``.
        form: Says in which order the lines stand, and whether Alpaca's introduction comes first.
    """
    body = "\n".join(reversed(lines) if form.order == "candidates_first" else lines)
    introduction = "" if form.instruction == "short" else f"{_INTRODUCTION}\n\n"
    return f"{introduction}### Instruction:\n{instruction}\n\n### Input:\n{body}\n\n### Response:\n"


def encode_frame(
    tokenizer: Any, instruction: str, lines: Sequence[str], form: PromptConfig
) -> list[int]:
    """The framed prompt as token ids."""
    text = frame(instruction, lines, form)
    return [*encode_beginning(tokenizer), *encode_text(tokenizer, text)]


def show(title: str) -> str:
    """A cleaned title whose double quotes are replaced by single ones."""
    return clean_title(title).replace('"', "'")


def quote(titles: Sequence[str]) -> str:
    """Titles in double quotes, separated by commas; no title can end its line or the list."""
    return ", ".join(f'"{show(title)}"' for title in titles)
