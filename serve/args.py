"""Arguments of the application of one version: its model, and the settings that it is served by."""

from pydantic import Field

from msrrec import storage
from msrrec.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    PromptConfig,
    RecommendConfig,
    ServeConfig,
)


class AppArgs(Config):
    """Arguments of the application; the ``args`` of a Serve config file."""

    model_dir: str
    """Folder made by ``msrrec train``, a hub name, any model's folder, or ``embedded``."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Folders of further models on the same base, by the domain of requests that they answer."""
    index: str | None = None
    """Folder made by ``msrrec index``: the catalogue of requests without candidates."""
    recommendations: str | None = None
    """Folder made by ``msrrec recommend``: what is answered to users who are named alone."""
    purchases: str | None = None
    """Folder that keeps what users bought since, which all versions read. Unset: beside the
    recommendations."""
    changes: str | None = None
    """Folder with the changes of items that the live version was told, for a version that is rolled
    out with another index."""
    gpus_per_engine: float | None = None
    """GPUs per engine, also a share of one. Unset: those of ``inference.gpus_per_engine``."""
    model: ModelConfig = ModelConfig()
    """The revision of a base model on a hub."""
    prompt: PromptConfig = PromptConfig()
    """How a base model is prompted; a trained model has its own settings."""
    recommend: RecommendConfig = RecommendConfig()
    """How many candidates the catalogue proposes."""
    inference: InferenceConfig = InferenceConfig()
    """Sampling, lengths and options of vLLM."""
    serve: ServeConfig = ServeConfig()
    """Limits, replicas and the name of the API key's variable; host and port are set by Serve."""

    @property
    def told_purchases(self) -> str | None:
        """The folder of purchases; None for a service without recommendations."""
        if self.purchases or self.recommendations is None:
            return self.purchases
        return storage.beside(self.recommendations, ".purchases")

    @property
    def answering(self) -> InferenceConfig:
        """Settings of inference, with the service's own choice of what an answer may name."""
        return self.inference.model_copy(update={"constrained": self.serve.constrained})
