"""Settings of the teachers, large models that write reasoning paths."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from msrrec.config.chat import ChatConfig


class EndpointConfig(ChatConfig):
    """One teacher: where it runs, how it samples, what it costs."""

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
    """api: an OpenAI-compatible API; vllm: weights that every actor loads itself."""
    base_url: str | None = None
    """Base URL of the API, such as https://api.deepseek.com/v1. Unset: the offline teacher, started
    on this machine."""
    model: str = "deepseek-reasoner"
    """Name of the model at the API; for vllm a folder, a hub name or ``embedded``. The offline
    teacher has two: offline-teacher, which stands for any other name too, and
    offline-teacher-titles, which writes each candidate's title before its word where the catalogue
    has no categories."""
    api_key_env: str | None = "TEACHER_API_KEY"
    """Name of the environment variable that holds the API key, in the process that runs the
    command; null where the server takes none. A server on loopback needs none."""
    weight: float = Field(default=1.0, gt=0)
    """Relative share of the calls that this teacher gets while all teachers have room."""
    temperature: float = Field(default=0.6, ge=0, le=2)
    """Sampling temperature."""
    max_tokens: int = Field(default=4096, ge=16)
    """Maximum number of tokens per completion, including the teacher's hidden reasoning."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Maximum number of calls started per minute, over all actors. Unset: no limit."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Maximum number of tokens per minute, prompts and completions, over all actors. Unset: no
    limit."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price per million prompt tokens, in any currency. Unset: no cost is computed."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price per million completion tokens, in the same currency."""

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
    """The teachers and how they are called."""

    others: tuple[EndpointConfig, ...] = ()
    """Further teachers, each with the settings above. All share the calls by weight, and if one
    fails another is asked."""
    concurrency: int = Field(default=64, ge=1)
    """Maximum number of calls in flight per actor and teacher; lowered while the teacher
    throttles."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds until one try of a call is given up."""
    max_retries: int = Field(default=5, ge=0)
    """Maximum number of retries per call after transport errors and 5xx, with exponential backoff;
    throttling (429) is waited out."""

    @property
    def endpoints(self) -> tuple[EndpointConfig, ...]:
        """All teachers, the first one being this section's own."""
        own = {name: getattr(self, name) for name in EndpointConfig.model_fields}
        return (EndpointConfig(**own), *self.others)

    @model_validator(mode="after")
    def _check_others(self) -> "TeacherConfig":
        for n, other in enumerate(self.others):
            if other.engine == "api" and other.base_url is None:
                raise ValueError(f"others[{n}] lacks a base_url; only the first teacher may")
        return self
