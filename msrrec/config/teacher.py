"""The large models that write reasoning paths."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from msrrec.config.chat import ChatConfig


class EndpointConfig(ChatConfig):
    """One large model that writes reasoning paths: where it is, how it samples, what it costs."""

    runtime: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_env",
            "requests_per_minute",
            "tokens_per_minute",
            "concurrency",
            "timeout_s",
            "max_retries",
            "rename",
        }
    )
    folders: ClassVar[frozenset[str]] = frozenset({"model"})

    engine: Literal["api", "vllm"] = "api"
    """api: an OpenAI-compatible API; vllm: the weights ``model`` names, loaded by every actor."""
    base_url: str | None = None
    """Such as https://api.deepseek.com/v1; unset: the offline teacher, started on loopback."""
    model: str = "deepseek-reasoner"
    """The model's name at that API; for vllm a folder, a hub name or ``embedded``."""
    api_key_env: str = "TEACHER_API_KEY"
    """The environment variable that holds the key."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the calls, beside the other teachers' weights, while all of them have room."""
    temperature: float = Field(default=0.6, ge=0, le=2)
    """Sampling temperature."""
    max_tokens: int = Field(default=4096, ge=16)
    """Most tokens of one answer, reasoning of the model's own included."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Calls begun per minute by all actors together."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Tokens per minute of all actors together, prompts and answers."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, in any currency."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price of a million completion tokens, in the same currency."""

    @model_validator(mode="after")
    def _check_prices(self) -> "EndpointConfig":
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price go together; found only one")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> "EndpointConfig":
        if self.engine == "vllm" and (self.rename or self.variation):
            raise ValueError("rename, omit and extra_body are for engine=api; found engine=vllm")
        return self


class TeacherConfig(EndpointConfig):
    """The teacher, or several, and how calls to them are made."""

    others: tuple[EndpointConfig, ...] = ()
    """More teachers, each with the settings above: they share the calls by weight, and where one
    fails the next is asked."""
    concurrency: int = Field(default=64, ge=1)
    """Most calls in flight per actor and teacher; fewer while the teacher throttles."""
    timeout_s: float = Field(default=300.0, gt=0)
    """One try of one call."""
    max_retries: int = Field(default=5, ge=0)
    """Tries after the first, with exponential backoff, on transport errors and 5xx; a teacher that
    throttles (429) is waited for."""

    @property
    def endpoints(self) -> tuple[EndpointConfig, ...]:
        """All teachers, this one first."""
        own = {name: getattr(self, name) for name in EndpointConfig.model_fields}
        return (EndpointConfig(**own), *self.others)

    @model_validator(mode="after")
    def _check_others(self) -> "TeacherConfig":
        for n, other in enumerate(self.others):
            if other.engine == "api" and other.base_url is None:
                raise ValueError(f"others[{n}] lacks a base_url; only the first teacher may")
        return self
