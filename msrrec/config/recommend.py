"""Settings of recommending for many users from a whole catalogue."""

from pydantic import Field, model_validator

from msrrec.config.base import Config


class RecommendConfig(Config):
    """Settings of recommending for many users from a whole catalogue."""

    num_candidates: int = Field(default=20, ge=2, le=999)
    """Number of items that the index proposes for each user, and the model chooses from."""
    top_k: int = Field(default=10, ge=1)
    """Number of items that each user is offered."""
    confidence_temperature: float | None = Field(default=None, gt=0)
    """What log-probabilities are divided by, so that a confidence is the share of users for whom
    the first item is right. ``msrrec evaluate`` with evaluate.split=validation and
    inference.candidate_logprobs=true prints it. Unset: no confidence is given."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Users whose recommendation is less sure are offered nothing. Needs
    confidence_temperature."""
    sample_users: int = Field(default=12, ge=0)
    """Number of users on the page."""

    @model_validator(mode="after")
    def _check(self) -> "RecommendConfig":
        if self.min_confidence and self.confidence_temperature is None:
            raise ValueError(
                "min_confidence is set and confidence_temperature is not; expected both, as "
                "nothing is known of how sure recommendations are"
            )
        return self
