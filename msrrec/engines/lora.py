"""Adapters beside their base in one vLLM engine, each of which a request may name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msrrec.engines.base import GenerationRequest
from msrrec.errors import EngineError, ModelError, first_line
from msrrec.model_cache import fetch
from msrrec.models import ModelSource

Adapters = Mapping[str, str]
"""Folders or URIs of PEFT adapters of the same base, by the names that requests give."""

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for."""


def adapter_rank(folder: str) -> int:
    """The smallest rank supported by vLLM that fits an adapter in a local folder.

    Raises:
        ModelError: If there is none, or its settings can't be read.
    """
    path = Path(folder) / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: not a readable PEFT adapter ({first_line(error)})") from error
    fitting = [offered for offered in _RANKS if offered >= rank]
    if not fitting:
        raise ModelError(f"{path}: rank {rank}; expected at most {_RANKS[-1]}")
    return fitting[0]


def fetch_adapters(adapters: Adapters | None) -> dict[str, str]:
    """The adapters in folders of this machine; none for None."""
    return {name: fetch(folder) for name, folder in (adapters or {}).items()}


@dataclass(frozen=True)
class NumberedAdapter:
    """An adapter under the name and number by which vLLM knows it.

    vLLM tells adapters apart by their names, in its prefix cache too. The number is part of the
    name, so each differs from all others, whatever people call them.
    """

    name: str
    number: int
    folder: str


def number_adapters(source: ModelSource, adapters: Adapters) -> dict[str | None, NumberedAdapter]:
    """The further adapters by their names, and that of the model itself, if any, by None."""
    folders: dict[str | None, str] = dict(adapters.items())
    if source.adapter is not None:
        folders[None] = source.adapter
    return {
        name: NumberedAdapter(f"{n}-{name or source.name}", n, folder)
        for n, (name, folder) in enumerate(folders.items(), 1)
    }


class Loras:
    """The adapters of an engine, all in local folders, as vLLM takes them."""

    def __init__(self, source: ModelSource, adapters: Adapters) -> None:
        self._found = number_adapters(source, adapters)

    def find(self, request: GenerationRequest) -> Any:
        """VLLM's adapter for a request; None where the engine's own model has none.

        Raises:
            EngineError: If the engine was started without it.
        """
        found = self._found.get(request.adapter)
        if found is not None:
            from vllm.lora.request import LoRARequest  # imports vLLM

            return LoRARequest(found.name, found.number, found.folder)
        if request.adapter is not None:
            raise EngineError(f"adapter {request.adapter!r}: this engine was started without it")
        return None
