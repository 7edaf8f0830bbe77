"""Settings of recommending for many users from a whole catalogue."""

from pydantic import Field

from msrrec.config.base import Config


class RecommendConfig(Config):
    """Settings of recommending for many users from a whole catalogue."""

    num_candidates: int = Field(default=20, ge=2, le=999)
    """Number of items that the index proposes for each user, and the model chooses from."""
    top_k: int = Field(default=10, ge=1)
    """Number of items that each user is offered."""
    sample_users: int = Field(default=12, ge=0)
    """Number of users on the page."""
