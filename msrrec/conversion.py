"""GGUF files as Hugging Face folders: each is converted once and kept in this user's cache.

A GGUF file holds weights (mostly quantised), settings and tokenizer of a model for llama.cpp. All
that trains, checks or runs a model here reads plain folders. So the file is turned into one, with
its weights in bfloat16, and from there on the model is like any other.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msrrec import storage
from msrrec.errors import ModelError, MsrRecError, first_line
from msrrec.lock import locked
from msrrec.model_cache import cache_folder

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
"""How the name of a GGUF file ends."""

REVISION = 1
"""Number to raise when changed code gives another folder for the same file."""

_MAGIC = b"GGUF"
_READS_GGUF = "gguf==0.19.0"
_PLAIN = ("F32", "F16")
"""GGUF's names of the types of weights that bfloat16 would round for the first time."""

_DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r")
"""GGUF's names of tokenizers that part all digits first, as in llama.cpp's llama-vocab.cpp;
transformers would split their text as GPT-2 does."""


def convert_gguf(path: Path) -> Path:
    """The Hugging Face folder of a GGUF file, converted if it is not in the cache yet.

    The folder is known by the contents of the file, not by its name or place. Of several processes
    that need it at once one converts and the others wait.

    Raises:
        ModelError: If there is no such file, it is not whole or no model that transformers knows,
            or the package that reads such files is not installed.
    """
    _check_file(path)
    folder = cached_folder(path)
    if _is_there(folder):
        return folder
    if find_spec("gguf") is None:
        raise ModelError(
            f"{path}: the Python package gguf, which reads such files, is not installed; install "
            f"it with `pip install {_READS_GGUF}`"
        )
    with locked(str(folder), waits=True):
        if not _is_there(folder):
            _convert_into(path, folder)
    return folder


def cached_folder(path: Path) -> Path:
    """The place of a GGUF file's folder in the cache, whether it has been converted or not.

    ``XDG_CACHE_HOME`` moves the cache, which is ``~/.cache`` without it.
    """
    stat = path.stat()
    digest = _hash_file(str(path), stat.st_size, stat.st_mtime_ns)
    return cache_folder() / f"gguf{REVISION}-{digest[:16]}"


def _is_there(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _check_file(path: Path) -> None:
    """Refuse a file that is missing or of another kind, before anything is read for long."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected a model as a {SUFFIX} file")
    with path.open("rb") as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        raise ModelError(
            f"{path}: no GGUF file, as it begins with {begin!r}; copy or download it again, or "
            "run `git lfs pull` where it is a Git LFS pointer"
        )


@lru_cache(64)
def _hash_file(path: str, size: int, modified_ns: int) -> str:
    """The sha256 of a file, read once while size and time stay the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert_into(path: Path, folder: Path) -> None:
    begin = time.monotonic()
    logger.info("%s: converting into %s, which is done once", path, folder)
    with storage.atomic_folder(str(folder), ("*",)) as aside:
        with _explained(path, "can't be read to its end", "all of it; copy or download it again"):
            from gguf import GGUFReader

            reader = GGUFReader(path)
        with _explained(path, "can't be converted", "a language model that transformers knows"):
            _write_folder(path, reader, aside)
    logger.info("%s: converted in %.0f s", path, time.monotonic() - begin)


def _write_folder(path: Path, reader: Any, aside: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # seconds to import

    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    _part_digits(tokenizer, reader)
    model, found = AutoModelForCausalLM.from_pretrained(
        **place,
        dtype=_stored_dtype(reader),
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    if found["missing_keys"]:  # transformers has drawn them at random
        missing = sorted(found["missing_keys"])
        raise ValueError(f"it lacks {len(missing)} tensors, such as {missing[0]}")
    tokenizer.save_pretrained(aside)
    model.save_pretrained(aside)


def _stored_dtype(reader: Any) -> Any:
    """bfloat16, but float32 for a file with matrices that are not rounded yet."""
    import torch

    is_plain = any(len(t.shape) > 1 and t.tensor_type.name in _PLAIN for t in reader.tensors)
    return torch.float32 if is_plain else torch.bfloat16


def _part_digits(tokenizer: Any, reader: Any) -> None:
    """Let every digit be a token of its own where the model was trained so."""
    from tokenizers import pre_tokenizers

    field = reader.get_field("tokenizer.ggml.pre")
    if field is None or field.contents() not in _DIGITS_ALONE:
        return
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


@contextmanager
def _explained(path: Path, what: str, expected: str) -> Iterator[None]:
    """Turn whatever a reader of strangers' files raises into one sentence."""
    try:
        yield
    except (MemoryError, MsrRecError):
        raise
    except Exception as error:  # a damaged file fails in any way
        if isinstance(error, OSError) and error.errno:
            raise  # a full disk or the like, which names itself
        raise ModelError(f"{path}: {what} ({first_line(error)}); expected {expected}") from error
