"""How recommendations are generated."""

from typing import Any, ClassVar

from pydantic import Field

from msrrec.config.base import Config


class InferenceConfig(Config):
    """How recommendations are generated."""

    runtime: ClassVar[frozenset[str]] = frozenset({"batch_size", "num_engines"})

    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature; perplexity is always taken at 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest output in tokens."""
    constrained: bool = False
    """Whether the title after the reasoning can only be one of the candidates; false decodes freely
    as the paper does, and titles that are no candidate count as misses."""
    num_samples: int = Field(default=1, ge=1)
    """Samples of each side in batch inference; the first is the recommendation, all of them vote in
    the study of fusion rules."""
    candidate_logprobs: bool = False
    """Also the log-likelihood of every candidate after the reasoning, which ranks them all; costs
    as many more tokens as all titles have. Not in the service."""
    unconditional_perplexity: bool = False
    """Also the perplexity of the reasoning without its prompt; costs as many tokens as the
    reasoning has. Not in the service."""
    max_model_len: int | None = Field(default=None, ge=64)
    """Prompt and output together; unset: what the model allows, at most 4,096."""
    seed: int = Field(default=0, ge=0)
    """Each request's own seed follows from this one and its example."""
    batch_size: int = Field(default=256, ge=1)
    """Examples handed to an engine at once in batch inference."""
    num_engines: int = Field(default=1, ge=1)
    """vLLM replicas in batch inference."""
    vllm_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to vLLM under its own names."""

    @property
    def binds_outputs(self) -> bool:
        """Whether any output is kept to given answers."""
        return self.constrained or self.candidate_logprobs or self.unconditional_perplexity
