"""Settings of the judge, a language model that marks reasonings."""

from typing import ClassVar, Literal

from pydantic import Field

from msrrec.config.chat import ChatConfig


class JudgeConfig(ChatConfig):
    """The language model that marks reasonings, behind an OpenAI-compatible API.

    Choose another model than the teacher if you can: models prefer their own wording.
    """

    runtime: ClassVar[frozenset[str]] = frozenset(
        {"api_key_env", "concurrency", "timeout_s", "max_retries", "rename"}
    )

    base_url: str | None = None
    """Base URL of the API, such as https://api.openai.com/v1. Unset: nothing is marked."""
    model: str = "gpt-4o-mini"
    """Name of the model at that API."""
    api_key_env: str | None = "JUDGE_API_KEY"
    """Name of the environment variable that holds the API key; null where the server takes none."""
    votes: int = Field(default=3, ge=1)
    """Number of marks requested per reasoning, each with its own seed; the median counts."""
    response_format: Literal["json_schema", "json_object"] = "json_schema"
    """How the API is asked for JSON; use json_object if it does not support schemas."""
    max_tokens: int = Field(default=1024, ge=16)
    """Maximum number of tokens per completion, including the judge's own reasoning."""
    concurrency: int = Field(default=32, ge=1)
    """Maximum number of calls in flight."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds until one try of a call is given up."""
    max_retries: int = Field(default=5, ge=0)
    """Maximum number of retries per call, with exponential backoff."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price per million prompt tokens, in any currency. A cost is reported if both prices are
    set."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price per million completion tokens, in the same currency."""
