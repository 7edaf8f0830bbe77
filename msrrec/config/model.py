"""Settings of the student: which weights to use."""

from typing import ClassVar, Literal

from msrrec.config.base import Config

EMBEDDED = "embedded"
"""Name of the small backbone that ships with the package."""


class ModelConfig(Config):
    """Settings of the student model."""

    folders: ClassVar[frozenset[str]] = frozenset({"name_or_path"})

    name_or_path: str = EMBEDDED
    """Weights of the student: ``embedded``, a folder, or a hub name such as
    meta-llama/Meta-Llama-3-8B-Instruct."""
    revision: str | None = None
    """Commit, branch or tag of the model on the hub. Unset: the latest."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Data type of the frozen weights. auto: bfloat16 on GPUs; on CPUs float32, multiplied in
    bfloat16 where the CPU supports it."""
