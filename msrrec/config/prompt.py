"""Settings of the prompt's form, which all systems with a language model share."""

from typing import Literal

from pydantic import Field

from msrrec.config.base import Config

AnswerFormat = Literal["title", "number_title"]
"""How an answer names its item: by title alone, as in the paper, or by number and title."""
Order = Literal["history_first", "candidates_first"]
"""Which of the two lists of a prompt comes first."""
InstructionForm = Literal["full", "short"]
"""How much a prompt says about what to write."""


class PromptConfig(Config):
    """Settings of the prompt's form; a trained model keeps those that it was trained with."""

    order: Order = "history_first"
    """Which list comes first. With candidates_first each purchase can be compared with candidates
    that were already read, from which small models learn more."""
    answer_format: AnswerFormat = "number_title"
    """How an answer names its item: title as in the paper, or number_title, which helps small
    models."""
    instruction: InstructionForm = "full"
    """full describes every step; short names the steps only, in at most 25 to 30 tokens."""
    use_chat_template: bool = True
    """Put prompts into the model's chat template; false gives its beginning token, the prompt and a
    line break. TALLRec and LLaRA have frames of their own, and APIs apply their own template."""
    max_title_chars: int = Field(default=160, ge=16, le=160)
    """Longest title in a prompt, in characters; longer ones are cut between words. A cut candidate
    that reads like another one is shown whole, and answers are matched to what was shown."""
