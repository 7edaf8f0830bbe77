"""Fingerprints of contents: equal contents have equal fingerprints, wherever they are stored."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from msrrec import schema, storage
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.folders import find_files
from msrrec.data.sources import Inputs, Source, make_source
from msrrec.errors import DataError, ModelError
from msrrec.model_cache import hash_listing, list_model
from msrrec.models import ModelSource, local_folder, locate_model

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_BESIDE_WEIGHTS = ("*.json", "*.model", "*.jinja", "*.tiktoken")
_CHUNK_BYTES = 1 << 24
_LARGE_BYTES = 1 << 26


class Reader(Protocol):
    """What reads an input: a call of a stage."""

    @property
    def config(self) -> RunConfig:
        """Settings of the run."""
        ...

    @property
    def inputs(self) -> Mapping[str, str]:
        """Paths of all its inputs, by name."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Its further arguments."""
        ...


def fingerprint_interactions(path: str, reader: Reader) -> str:
    """The fingerprint of the files that a source finds there, and of the domain that they give.

    Remote files count by name, size and time of change, as reading them would take as long as the
    work.
    """
    source, files = _find_files(reader)
    domain = reader.config.data.domain or source.domain(path)
    beside = () if "items" in reader.inputs else files.items  # as of MovieLens
    return hash_parts([domain, *map(_fingerprint_file, (*files.interactions, *beside))])


def fingerprint_items(path: str, reader: Reader) -> str:
    """The fingerprint of the files of items that a source finds."""
    return hash_parts(map(_fingerprint_file, _find_files(reader)[1].items))


def fingerprint_extra_items(path: str, reader: Reader) -> str:
    """The fingerprint of files of further items."""
    return hash_parts(map(_fingerprint_file, find_files(path)))


def fingerprint_network(path: str, reader: Reader) -> str:
    """The fingerprint of a trained network in an evaluation's folder."""
    entries = [entry for entry in storage.walk(path) if entry.name.startswith("network/")]
    contents = (hash_bytes(storage.read_bytes(storage.join(path, e.name))) for e in entries)
    return hash_parts([*(entry.name for entry in entries), *contents])


def _find_files(reader: Reader) -> tuple[Source, Inputs]:
    source = make_source(reader.options["source"], reader.config.data)
    return source, source.find(reader.inputs.get("interactions"), reader.inputs.get("items"))


def fingerprint_dataset(path: str, reader: Reader) -> str:
    """The fingerprint of a dataset: its files' current contents and its domain."""
    return identify_dataset(Dataset.load(path))


def identify_dataset(dataset: Dataset) -> str:
    """The fingerprint of a dataset that is loaded."""
    return hash_parts([dataset.fingerprint, dataset.domain])


def fingerprint_paths(path: str, reader: Reader) -> str:
    """The fingerprint of a synthesis: its kept paths, the only part that training reads."""
    return hash_bytes(storage.read_bytes(storage.join(path, schema.PATHS_FILE)))


def fingerprint_model(path: str, reader: Reader) -> str:
    """The fingerprint of a trained or base model: its files, and how it answers."""
    return identify_model(locate_model(path, reader.config.model, reader.config.prompt))


def identify_model(source: ModelSource) -> str:
    """The fingerprint of weights, tokenizer, configuration and prompt form of a model."""
    places = [place for place in (source.path, source.adapter) if place]
    facts = [source.revision, source.form.model_dump(mode="json"), source.domain]
    return hash_parts([*map(_fingerprint_place, places), json.dumps(facts)])


def _fingerprint_place(place: str) -> str:
    """A model folder by its files; a hub's model by its name."""
    if storage.is_uri(place):
        return hash_listing(list_model(place))
    folder = Path(place)
    files = {file for pattern in (*_WEIGHTS, *_BESIDE_WEIGHTS) for file in folder.glob(pattern)}
    return hash_files(sorted(files)) if files else place


def fingerprint_evaluation(path: str, reader: Reader) -> str:
    """The fingerprint of an evaluation: its predictions.

    Raises:
        DataError: If there are none.
    """
    folder = storage.join(path, "predictions")
    names = [name for name in storage.list_files(folder) if name.endswith(".parquet")]
    if not names:
        raise DataError(
            f"{path}: holds no predictions; expected a folder made by `msrrec evaluate`"
        )
    contents = (hash_bytes(storage.read_bytes(storage.join(folder, name))) for name in names)
    return hash_parts([*names, *contents])


def fingerprint_index(path: str, reader: Reader) -> str:
    """The fingerprint of an index: what describes it, and names the hash of each of its files."""
    return hash_bytes(storage.read_bytes(storage.join(path, storage.INDEX)))


def fingerprint_users(path: str, reader: Reader) -> str:
    """The fingerprint of a list of users: its content."""
    return hash_bytes(storage.read_bytes(path))


FINGERPRINTS: Mapping[str, Callable[[str, Reader], str]] = {
    "interactions": fingerprint_interactions,
    "items": fingerprint_items,
    "extra_items": fingerprint_extra_items,
    "sasrec": fingerprint_network,
    "dataset": fingerprint_dataset,
    "reasoning": fingerprint_paths,
    "references": fingerprint_paths,
    "model": fingerprint_model,
    "evaluation": fingerprint_evaluation,
    "index": fingerprint_index,
    "users": fingerprint_users,
}
"""The function that fingerprints each kind of input, by the name of the input."""


def fingerprint_setting(value: str) -> str:
    """The fingerprint of the files in a folder that a setting names, else the setting itself."""
    if storage.is_uri(value):
        return hash_listing(found) if (found := storage.walk(value)) else value
    try:
        folder = local_folder(value)
    except ModelError:  # a package or file that is missing is refused by what loads it
        return value
    return hash_files(sorted(folder.rglob("*.*"))) if folder and folder.is_dir() else value


def hash_weights(source: ModelSource) -> str | None:
    """A hash (16 hexadecimal digits) of a model's weight files, its adapter's included.

    Files at a URI count by name, size and time of change.

    None if they are not in a local folder, for example on a hub; the revision then identifies them.
    """
    places = [path for path in (source.path, source.adapter) if path]
    if any(storage.is_uri(place) for place in places):
        return hash_parts(_fingerprint_place(place) for place in places)
    folders = [Path(place) for place in places]
    files = sorted(
        file for folder in folders for pattern in _WEIGHTS for file in folder.glob(pattern)
    )
    return hash_files(files) if files else None


def hash_files(files: Iterable[Path]) -> str:
    """A hash (16 hexadecimal digits) of local files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            stat = path.stat()
            digest.update(_hash_file(str(path), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def _hash_file(path: str, size: int, modified_ns: int) -> bytes:
    """The sha256 of a file; a large file is read once while size and time stay the same."""
    if size < _LARGE_BYTES:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    return _hash_large_file(path, size, modified_ns)


@lru_cache(1024)
def _hash_large_file(path: str, size: int, modified_ns: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()


def hash_bytes(content: bytes) -> str:
    """A hash (16 hexadecimal digits) of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def hash_parts(parts: Iterable[str]) -> str:
    """16 hexadecimal digits of several texts in order."""
    return hash_bytes("\n".join(parts).encode())


def _fingerprint_file(path: str) -> str:
    filesystem, inner = storage.resolve(path)
    with storage.told(path):
        info = filesystem.get_file_info(inner)
    if storage.is_object_store(path):
        return f"{info.base_name} {info.size} {info.mtime_ns}"
    return _hash_file(inner, info.size, info.mtime_ns).hex()
