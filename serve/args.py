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
    live_purchases: str | None = None
    """Folder of the purchases that the live version was told, for a version that is rolled out:
    it goes on with it, and copies it beside its own recommendations. ``purchases`` comes first."""
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
        return self.purchases or self.live_purchases or self._beside

    @property
    def copied_purchases(self) -> str | None:
        """The folder that gets a copy of the purchases; None if none is needed.

        It is where a service that is started with these recommendations looks for them.
        """
        return None if self._beside == self.told_purchases or self.purchases else self._beside

    @property
    def _beside(self) -> str | None:
        if self.recommendations is None:
            return None
        return storage.beside(self.recommendations, ".purchases")

    @property
    def answering(self) -> InferenceConfig:
        """Settings of inference, with the service's own choice of what an answer may name."""
        return self.inference.model_copy(update={"constrained": self.serve.constrained})
