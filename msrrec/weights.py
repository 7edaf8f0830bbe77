"""Whether a model's files are whole, seen from headers and sizes before anything is loaded."""

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msrrec import storage
from msrrec.errors import ModelError, first_line
from msrrec.hub import cached_folder, check_hub
from msrrec.model_cache import fetch, is_weights, list_model
from msrrec.models import ModelSource

_POINTER = b"version https://git-lfs"
"""How the small file begins that git leaves in the place of a large one."""

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_PATTERNS = ("*.safetensors", "*.bin", "*.pt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_ZIP, _PICKLE = b"PK", b"\x80"
"""How a PyTorch file begins, of today's kind and of the old one."""


def check_source(source: ModelSource) -> None:
    """Refuse, in seconds at most, weights that could not be loaded.

    Looks at files of this machine and asks a hub once; nothing heavy is imported.

    Raises:
        ModelError: If there is no such folder or hub name, or a file is missing, cut short, or the
            stand-in that git leaves without its large-file extension.
    """
    check_place(source.path, source.revision)
    if source.adapter is not None:
        check_shard(Path(fetch(source.adapter)) / "adapter_model.safetensors")


def check_place(place: str, revision: str | None = None) -> None:
    """Refuse a folder whose model is not whole, or a hub name that can't be had.

    Raises:
        ModelError: As ``check_source``.
    """
    if storage.is_uri(place):
        _check_listing(place)
        return
    if Path(place).is_dir():
        check_folder(Path(place))
        return
    check_hub(place, revision)
    cached = cached_folder(place, revision)
    if cached is not None and os.environ.get("HF_HUB_OFFLINE"):
        check_folder(cached)  # no hub can supply what it lacks


def _check_listing(place: str) -> None:
    """Refuse a model at a URI some of whose files are missing; the weights are not read."""
    found = {entry.name: entry.size for entry in list_model(place)}
    here = Path(fetch(place, weights=False))
    if "config.json" not in found:
        raise ModelError(f"{place}: holds no config.json; expected a Hugging Face model folder")
    _read_json(here / "config.json")
    needed = {name for name in found if is_weights(name)}
    for index in here.glob("*.index.json"):
        needed |= set(_read_index(index))
    missing = sorted(name for name in needed if not found.get(name))
    if missing or not needed:
        what = f"lacks {missing[0]}" if missing else "holds no weights"
        raise ModelError(f"{place}: {what}; copy the whole model there again")


def check_folder(folder: Path) -> None:
    """Refuse a model's folder whose config, tokenizer or weights are not whole.

    Raises:
        ModelError: If a file is missing, cut short, or a stand-in for a large file.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; expected a Hugging Face model folder")
    _read_json(folder / "config.json")
    for name in _TOKENIZERS:
        if (folder / name).is_file():
            _check_tokenizer(folder / name)
    shards = list(find_shards(folder))
    if not shards:
        raise ModelError(
            f"{folder}: holds no weights; expected model.safetensors, or its shards and "
            "model.safetensors.index.json; copy or download the model again"
        )
    for shard in shards:
        check_shard(shard)


def find_shards(folder: Path) -> Iterator[Path]:
    """The files that a folder's weights are read from, the one that loaders prefer first.

    Raises:
        ModelError: If an index of shards names none, or one outside the folder.
    """
    for name in _SINGLE:
        if (folder / name).exists():
            yield folder / name
            return
        index = folder / f"{name}.index.json"
        if index.exists():
            yield from (folder / shard for shard in _read_index(index))
            return
    for pattern in _PATTERNS:
        yield from sorted(folder.glob(pattern))


def check_shard(path: Path) -> None:
    """Refuse a file of weights that is not whole.

    Raises:
        ModelError: If it is missing, cut short, or a stand-in for a large file.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: missing, though the model has it; copy or download the whole model again"
        )
    _refuse_pointer(path)
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    else:
        _check_pytorch(path)


def _read_index(path: Path) -> list[str]:
    """The names of the shards in an index, each of a file beside it."""
    named = _read_json(path).get("weight_map")
    names = set(named.values()) if isinstance(named, dict) and _are_texts(named.values()) else set()
    outside = [name for name in names if Path(name).name != name]
    if not names or outside:
        found = f"names {outside[0]!r}" if outside else "names no files of weights"
        raise ModelError(
            f"{path}: {found}; expected weight_map with the files beside it; copy it again"
        )
    return sorted(names)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _check_safetensors(path: Path) -> None:
    """Have the header read, whose offsets must cover the file to its last byte."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise _cut_short(path, f"({first_line(error)})") from error


def _check_pytorch(path: Path) -> None:
    begin = _first_bytes(path, len(_ZIP))
    if not begin.startswith((_ZIP, _PICKLE)):
        raise ModelError(f"{path}: no PyTorch file; copy or download it again")
    if begin == _ZIP and not zipfile.is_zipfile(path):  # a zip lists its files at its end
        raise _cut_short(path, "without its end")


def _check_tokenizer(path: Path) -> None:
    if path.suffix == ".json":
        _read_json(path)
    else:
        _refuse_pointer(path)


def _cut_short(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: not whole, it has {path.stat().st_size:,} bytes {what}; copy or download it again"
    )


def _refuse_pointer(path: Path) -> None:
    if _first_bytes(path, len(_POINTER)) == _POINTER:
        raise ModelError(
            f"{path}: a Git LFS pointer and not the file itself; run `git lfs pull` in "
            f"{path.parent}, or download the file"
        )


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _read_json(path: Path) -> dict[str, Any]:
    _refuse_pointer(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a JSON file ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a JSON object; copy it again")
    return found
