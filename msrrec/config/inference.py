"""Settings for generating recommendations."""

from typing import Any, ClassVar

from pydantic import Field

from msrrec.config.base import Config


class InferenceConfig(Config):
    """Settings for generating recommendations."""

    runtime: ClassVar[frozenset[str]] = frozenset(
        {"batch_size", "num_engines", "gpus_per_engine", "kv_cache_gib"}
    )

    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature; perplexity is always measured at temperature 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability mass that nucleus sampling keeps; 1 keeps all tokens."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Maximum number of generated tokens per output."""
    constrained: bool = False
    """Restrict the title after the reasoning to the candidates. False decodes freely, as the paper
    does, and counts other titles as misses."""
    num_samples: int = Field(default=1, ge=1)
    """Samples per side in batch inference. The first is the recommendation; the study of fusion
    rules uses all as votes."""
    candidate_logprobs: bool = False
    """Also compute the log-likelihood of every candidate after the reasoning, which ranks them all.
    With answers number_title it costs one new token per output, with title as many as all titles
    have. The service ranks where a request's top_k asks for it, whatever stands here."""
    unconditional_perplexity: bool = False
    """Also compute the perplexity of the reasoning without its prompt. Costs as many extra tokens
    as the reasoning has. The service does not."""
    route_threshold: float | None = Field(default=None, ge=0, le=1)
    """What the variant routed does: a user whose direct answer is less likely than this gets both
    chains, the others the direct answer; 0 never thinks, 1 always does. Validation chooses it:
    ``msrrec evaluate`` of direct and fused with evaluate.split=validation prints it. Unset: taken
    from evaluate.gate."""
    max_model_len: int | None = Field(default=None, ge=64)
    """Maximum number of tokens of prompt and output together. Unset: the model's own limit, at most
    4,096."""
    seed: int = Field(default=0, ge=0)
    """Base seed; each request's seed is derived from it and the example."""
    batch_size: int = Field(default=256, ge=1)
    """Number of examples that an engine works on at once in batch inference, at most 1,024, and
    that it is handed together. It has the next ones before these are complete. Each takes as many
    of the engine's sequences as it has sides; more examples than the engine has room for wait in
    it, which keeps it full."""
    num_engines: int = Field(default=1, ge=1)
    """Number of vLLM engines in batch inference."""
    gpus_per_engine: int | None = Field(default=None, ge=0)
    """GPUs of each engine; 0 runs on processors. Unset: vLLM's tensor times its pipeline parallel
    size where the cluster has GPUs, or may get them and the model has more than a billion
    parameters; else none."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """GiB of each engine's cache of keys and values. Unset: vLLM's choice on GPUs; on processors
    room for every output that is generated at once, at most the larger of 1 GiB and 4 outputs of
    max_model_len tokens."""
    vllm_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for vLLM, under vLLM's own names."""

    @property
    def binds_outputs(self) -> bool:
        """Whether any output is constrained to given texts."""
        return self.constrained or self.candidate_logprobs or self.unconditional_perplexity
