"""Fingerprints of contents: equal contents have equal fingerprints, wherever they are stored."""

import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from msrrec import schema, storage
from msrrec.config import EMBEDDED, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.errors import DataError
from msrrec.models import EMBEDDED_DIR, ModelSource, locate_model

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_CHUNK_BYTES = 1 << 24
_LARGE_BYTES = 1 << 26


def fingerprint_dataset(path: str, config: RunConfig) -> str:
    """The fingerprint of a dataset: its files' current contents and its domain."""
    dataset = Dataset.load(path)
    return hash_bytes(f"{dataset.fingerprint} {dataset.domain}".encode())


def fingerprint_paths(path: str, config: RunConfig) -> str:
    """The fingerprint of a synthesis: its kept paths, the only part that training reads."""
    return hash_bytes(storage.read_bytes(storage.join(path, schema.PATHS_FILE)))


def fingerprint_model(path: str, config: RunConfig) -> str:
    """The fingerprint of a trained or base model: its weights and answer format."""
    source = locate_model(path, config.model)
    facts = [
        hash_weights(source) or source.path,
        source.revision,
        source.answer_format,
        source.domain,
    ]
    return hash_bytes(json.dumps(facts).encode())


def fingerprint_evaluation(path: str, config: RunConfig) -> str:
    """The fingerprint of an evaluation: its predictions."""
    return fingerprint_files(storage.join(path, "predictions", "*.parquet"), config)


def fingerprint_files(path: str, config: RunConfig) -> str:
    """The fingerprint of a file, of all files in a folder, or of those that match a pattern.

    Remote files count by name, size and time of change, as reading them would take as long as the
    work.

    Raises:
        DataError: If there are no such files.
    """
    digests = [_fingerprint_file(path, info) for info in _find(path)]
    if not digests:
        raise DataError(f"{path}: no such file or folder; expected the source's files there")
    return hash_bytes("\n".join(digests).encode())


FINGERPRINTS: Mapping[str, Callable[[str, RunConfig], str]] = {
    "interactions": fingerprint_files,
    "items": fingerprint_files,
    "dataset": fingerprint_dataset,
    "reasoning": fingerprint_paths,
    "references": fingerprint_paths,
    "model": fingerprint_model,
    "evaluation": fingerprint_evaluation,
}
"""The function that fingerprints each kind of input, by the name of the input."""


def fingerprint_setting(value: str) -> str:
    """The fingerprint of the files in a folder that a setting names, else the setting itself."""
    folder = EMBEDDED_DIR if value == EMBEDDED else Path(value).expanduser()
    return hash_files(sorted(folder.rglob("*.*"))) if folder.is_dir() else value


def hash_weights(source: ModelSource) -> str | None:
    """A hash (16 hexadecimal digits) of a model's weight files, its adapter's included.

    None if they are not in a local folder, for example on a hub; the revision then identifies them.
    """
    folders = [Path(path) for path in (source.path, source.adapter) if path]
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


def _find(path: str) -> list[fs.FileInfo]:
    filesystem, inner = storage.resolve(path)
    folder, name = inner.rstrip("/").rpartition("/")[::2]
    if any(sign in name for sign in "*?["):
        found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        found = [info for info in found if fnmatch.fnmatch(info.base_name, name)]
    else:
        info = filesystem.get_file_info(inner)
        is_folder = info.type == fs.FileType.Directory
        found = filesystem.get_file_info(fs.FileSelector(inner)) if is_folder else [info]
    files = (info for info in found if info.type == fs.FileType.File)
    return sorted(files, key=lambda info: str(info.path))


def _fingerprint_file(path: str, info: fs.FileInfo) -> str:
    if "://" in path:
        return f"{info.base_name} {info.size} {info.mtime_ns}"
    return _hash_file(info.path, info.size, info.mtime_ns).hex()
