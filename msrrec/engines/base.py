"""What every text generator takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msrrec.reasoning.encoding import AnswerChoice


@dataclass(frozen=True)
class GenerationRequest:
    """One sample of one prompt.

    Attributes:
        prompt_ids: Token ids of the prompt, output prefix included.
        seed: The sample's own seed, so that it does not depend on its batch.
        max_new_tokens: Longest output.
        temperature: Of sampling; 0 is greedy.
        top_p: Nucleus.
        choice: What the output must end in; None leaves it free.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    choice: AnswerChoice | None = None


@dataclass(frozen=True)
class Generation:
    """One sampled output.

    Attributes:
        token_ids: Generated tokens, the end token left out.
        token_logprobs: Natural log-probability of each at temperature 1, same length; the model's
            own, whatever it was kept to.
        finish_reason: ``stop`` when the model ended, ``length`` when it was cut.
        end_logprob: Log-probability of the end token; None where the output was cut before it.
    """

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: str
    end_logprob: float | None = None


class Engine(Protocol):
    """A model that continues prompts."""

    tokenizer: Any
    """The Hugging Face tokenizer of the model."""

    model_name: str
    """What results call the model."""

    max_model_len: int
    """Prompt and output together, in tokens."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One output a request, in order; an empty list for none."""
        ...
