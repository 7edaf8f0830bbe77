"""The student: which weights, and how its answers are written."""

from typing import ClassVar, Literal

from msrrec.config.base import Config

EMBEDDED = "embedded"
"""The name of the backbone that ships with the package."""

AnswerFormat = Literal["title", "number_title"]
"""How an answer names its item: the paper's title alone, or number and title."""


class ModelConfig(Config):
    """The student."""

    folders: ClassVar[frozenset[str]] = frozenset({"name_or_path"})

    name_or_path: str = EMBEDDED
    """``embedded``, a folder, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct."""
    revision: str | None = None
    """The hub's commit."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the frozen weights; auto: bfloat16 on GPUs, else float32 that is multiplied in
    bfloat16 where the processor can."""
    answer_format: AnswerFormat = "number_title"
    """How an answer names its item: the paper's title alone, or number and title, which helps small
    models."""
