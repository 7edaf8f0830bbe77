"""The language model that marks reasonings."""

from typing import ClassVar, Literal

from pydantic import Field

from msrrec.config.chat import ChatConfig


class JudgeConfig(ChatConfig):
    """The language model that marks reasonings, behind an OpenAI-compatible API.

    Not the teacher where it can be helped: models prefer their own words.
    """

    runtime: ClassVar[frozenset[str]] = frozenset(
        {"api_key_env", "concurrency", "timeout_s", "max_retries", "rename"}
    )

    base_url: str | None = None
    """Such as https://api.openai.com/v1; unset: nothing is marked."""
    model: str = "gpt-4o-mini"
    """The model's name at that API."""
    api_key_env: str = "JUDGE_API_KEY"
    """The environment variable that holds the key."""
    votes: int = Field(default=3, ge=1)
    """Answers a reasoning, each with its own seed; their median is its mark."""
    response_format: Literal["json_schema", "json_object"] = "json_schema"
    """json_object where the API knows no schemas."""
    max_tokens: int = Field(default=1024, ge=16)
    """Most tokens of one answer, thinking of the model's own included."""
    concurrency: int = Field(default=32, ge=1)
    """Calls in flight."""
    timeout_s: float = Field(default=120.0, gt=0)
    """One try of one call."""
    max_retries: int = Field(default=5, ge=0)
    """Tries after the first, with exponential backoff."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, in any currency; both prices give a cost."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price of a million completion tokens, in the same currency."""
