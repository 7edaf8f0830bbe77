"""Settings of the student: which weights to use."""

from typing import ClassVar, Literal

from msrrec.config.base import Config

EMBEDDED = "embedded"
"""Name of the small backbone that ships with the package."""


class ModelConfig(Config):
    """Settings of the student model."""

    folders: ClassVar[frozenset[str]] = frozenset({"name_or_path"})

    name_or_path: str = EMBEDDED
    """Weights of the student: ``embedded``, ``smollm2-135m`` from a Python package, a folder
    or its URI, a .gguf file, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct."""
    revision: str | None = None
    """Commit, branch or tag of the model on the hub. Unset: the latest."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Data type of the frozen weights while training. auto: bfloat16 on GPUs, and on processors
    with instructions for it (avx512_bf16 or amx_bf16); float32 on others, which only imitate it."""
