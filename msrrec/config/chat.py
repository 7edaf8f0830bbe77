"""What a call to an OpenAI-compatible API needs, whoever makes it."""

from collections.abc import Mapping

from pydantic import Field, JsonValue, model_validator

from msrrec.config.base import Config

_FIXED = ("model", "messages", "stream")


class ChatConfig(Config):
    """Where a model behind an OpenAI-compatible API is, and what its parameters are called."""

    base_url: str | None = None
    """Such as https://api.openai.com/v1."""
    model: str = ""
    """The model's name at that API."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; null where the server takes none."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Parameters that go under another name, such as {max_tokens: max_completion_tokens}."""
    omit: tuple[str, ...] = ()
    """List of the parameters that are not sent, such as temperature."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """Further parameters, such as {reasoning_effort: low}; they replace those of the same name."""

    @property
    def variation(self) -> dict[str, JsonValue]:
        """What of this changes a completion beside model and sampling; empty where nothing does."""
        omitted: dict[str, JsonValue] = {"omit": [*sorted(self.omit)]} if self.omit else {}
        return omitted | ({"extra_body": self.extra_body} if self.extra_body else {})

    def shape(self, parameters: Mapping[str, object]) -> dict[str, object]:
        """Parameters of a call as this API takes them."""
        kept = {name: value for name, value in parameters.items() if name not in self.omit}
        renamed = {self.rename.get(name, name): value for name, value in kept.items()}
        return renamed | dict(self.extra_body)

    @model_validator(mode="after")
    def _check_parameters(self) -> "ChatConfig":
        named = (*self.rename, *self.rename.values(), *self.omit, *self.extra_body)
        fixed = [name for name in _FIXED if name in named]
        if fixed:
            raise ValueError(f"rename, omit and extra_body can't change {fixed[0]}")
        return self
