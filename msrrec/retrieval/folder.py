"""The folder of an index: Parquet, numpy arrays and JSON, nothing that runs code when read.

``index.json`` is written last and holds the hash of every other file, so a folder that was cut off
or edited is refused.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from scipy.sparse import csr_array

from msrrec import schema, storage
from msrrec.config import RetrievalConfig, RetrieverName
from msrrec.errors import DataError
from msrrec.retrieval.catalogue import Catalogue
from msrrec.retrieval.index import Index
from msrrec.retrieval.retrievers import Embedding, ItemToItem, Popularity, Retriever, Words
from msrrec.retrieval.vectors import EMBEDDING_SETTING, TextEncoder
from msrrec.retrieval.words import WordTable
from msrrec.schema import Item

ITEMS_FILE, ARRAYS_FILE = "items.parquet", "arrays.npz"
WORDS_FILE = "words.parquet"
FILES = (storage.INDEX, ITEMS_FILE, ARRAYS_FILE, WORDS_FILE, "sasrec.*", storage.RECORD)
"""Patterns of the names that a folder of an index may hold."""
FORMAT = 1
SASREC_FILES = ("sasrec.safetensors", "sasrec.json")
"""Weights of a trained SASRec, and what it was trained on."""

ITEMS = pa.schema(
    [field for field in schema.ITEMS if field.name != schema.DESCRIPTION]
    + [pa.field("is_offered", pa.bool_(), nullable=False)]
)
WORDS = pa.schema([pa.field("word", pa.string(), nullable=False)])

Arrays = dict[str, NDArray[Any]]


class Manifest(BaseModel):
    """What ``index.json`` holds beside the files.

    Attributes:
        format: Number of this layout of files.
        retrievers: The retrievers in their order.
        sha256: The hash of each file.
    """

    format: int
    dataset: str
    version: str
    settings: RetrievalConfig
    chosen: dict[RetrieverName, float]
    retrievers: tuple[RetrieverName, ...]
    sha256: dict[str, str]


def save_index(index: Index, path: str) -> None:
    """Write an index into a folder, local or a URI; what was there is replaced at the end.

    Raises:
        DataError: If the folder holds something else, or can't be written.
    """
    items = [
        (i.item_id, i.title, list(i.categories), i.brand, bool(is_offered))
        for i, is_offered in zip(index.catalogue.items, index.catalogue.is_offered, strict=True)
    ]
    columns = list(zip(*items, strict=True)) or [()] * len(ITEMS)
    words = _words(index.retrievers)
    files = {
        ITEMS_FILE: storage.table_bytes(pa.table(list(map(list, columns)), schema=ITEMS)),
        WORDS_FILE: storage.table_bytes(pa.table([list(words.vocabulary)], schema=WORDS)),
        ARRAYS_FILE: pack_arrays(_arrays_of(index)),
    }
    files |= _files_of_networks(index.retrievers)
    manifest = Manifest(
        format=FORMAT,
        dataset=index.dataset,
        version=index.version,
        settings=index.settings,
        chosen=dict(index.chosen),
        retrievers=tuple(r.name for r in index.retrievers),
        sha256={name: _sha256(content) for name, content in files.items()},
    )
    with storage.atomic_folder(path, FILES) as folder:
        for name, content in files.items():
            storage.write_bytes(storage.join(folder, name), content)
        storage.write_json(storage.join(folder, storage.INDEX), manifest.model_dump(mode="json"))


def load_index(path: str) -> Index:
    """Read an index from a folder, local or a URI.

    Raises:
        DataError: If the folder holds no index, one of another version, or a damaged one.
    """
    manifest = _read_manifest(path)
    files = {name: _read_file(path, name, digest) for name, digest in manifest.sha256.items()}
    try:
        arrays = unpack_arrays(files[ARRAYS_FILE])
        table = pq.read_table(pa.BufferReader(files[ITEMS_FILE]), schema=ITEMS)
        words = pq.read_table(pa.BufferReader(files[WORDS_FILE]), schema=WORDS)
        catalogue = Catalogue.build(_read_items(table), np.array(table["is_offered"], dtype=bool))
        vocabulary = {word: n for n, word in enumerate(words["word"].to_pylist())}
        retrievers = tuple(
            _read_sasrec(path, files)
            if name == "sasrec"
            else _make_retriever(name, arrays, vocabulary, manifest)
            for name in manifest.retrievers
        )
        buyers = arrays["buyers"]
    except (KeyError, ValueError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: its files don't belong together ({error}); run `msrrec index` again"
        ) from error
    return Index(
        manifest.dataset,
        manifest.version,
        manifest.settings,
        manifest.chosen,
        catalogue,
        retrievers,
        buyers,
    )


def read_version(path: str) -> str:
    """The version of the index in a folder.

    Raises:
        DataError: If the folder holds no index, or one of another version of the program.
    """
    return _read_manifest(path).version


def check_sasrec(folder: str) -> None:
    """Refuse a folder without a trained SASRec.

    Raises:
        DataError: If it lacks a file of one.
    """
    missing = [n for n in SASREC_FILES if not storage.exists(storage.join(folder, n))]
    if missing:
        raise DataError(
            f"{folder}: holds no {missing[0]}; expected the network of `msrrec evaluate --model "
            "sasrec`, so run that (with --overwrite if an earlier version made the folder)"
        )


def _read_manifest(path: str) -> Manifest:
    place = storage.join(path, storage.INDEX)
    if not storage.exists(place):
        raise DataError(
            f"{path}: holds no {storage.INDEX}; expected a folder made by `msrrec index`"
        )
    found = storage.read_object(place)
    if found.get("format") != FORMAT:
        raise DataError(
            f"{path}: format {found.get('format')!r}; expected {FORMAT}; run `msrrec index` again"
        )
    try:
        return Manifest.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}; run `msrrec index` again"
        ) from error


def _read_file(path: str, name: str, digest: str) -> bytes:
    content = storage.read_bytes(storage.join(path, name))
    if _sha256(content) != digest:
        raise DataError(
            f"{storage.join(path, name)}: was changed or cut off since it was written; expected "
            f"the file that {storage.INDEX} describes; run `msrrec index` again"
        )
    return content


def _read_items(table: pa.Table) -> Iterable[Item]:
    for row in table.to_pylist():
        categories = tuple(row[schema.CATEGORIES] or ())
        yield Item(row[schema.ITEM_ID], row[schema.TITLE], categories, row[schema.BRAND])


def _words(retrievers: Iterable[Retriever]) -> WordTable:
    return next(r.table for r in retrievers if isinstance(r, Words))


def _arrays_of(index: Index) -> Arrays:
    arrays: Arrays = {"buyers": index.buyers}
    for retriever in index.retrievers:
        if isinstance(retriever, ItemToItem):
            arrays |= _take_apart(retriever.name, retriever.matrix)
        elif isinstance(retriever, Words):
            arrays |= _take_apart(retriever.name, retriever.table.counts)
        elif isinstance(retriever, Embedding):
            arrays[retriever.name] = retriever.vectors
    return arrays


def _files_of_networks(retrievers: Iterable[Retriever]) -> dict[str, bytes]:
    if "sasrec" not in (r.name for r in retrievers):
        return {}
    from msrrec.retrieval.sequential.saved import SasRecRetriever  # torch, seconds to import

    found: dict[str, bytes] = {}
    for retriever in retrievers:
        if isinstance(retriever, SasRecRetriever):
            found |= retriever.files()
    return found


def _read_sasrec(path: str, files: Mapping[str, bytes]) -> Retriever:
    from msrrec.retrieval.sequential.saved import parse_sasrec  # torch, seconds to import

    return parse_sasrec(path, *(files[name] for name in SASREC_FILES))


def _make_retriever(
    name: RetrieverName, arrays: Arrays, vocabulary: Mapping[str, int], manifest: Manifest
) -> Retriever:
    if name == "popularity":
        return Popularity(arrays["buyers"])
    if name == "words":
        return Words(WordTable.weigh(vocabulary, _put_together(name, arrays)))
    if name == "embedding":
        encoder = TextEncoder(manifest.settings.embedding_model or "", EMBEDDING_SETTING)
        return Embedding(arrays[name], encoder)
    return ItemToItem(name, _put_together(name, arrays))


def _take_apart(name: str, matrix: csr_array) -> Arrays:
    return {
        f"{name}.data": matrix.data,
        f"{name}.indices": matrix.indices.astype(np.int32),
        f"{name}.indptr": matrix.indptr.astype(np.int64),
        f"{name}.shape": np.array(matrix.shape, dtype=np.int64),
    }


def _put_together(name: str, arrays: Arrays) -> csr_array:
    parts = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    return csr_array(tuple(parts), shape=tuple(arrays[f"{name}.shape"].tolist()))


def pack_arrays(arrays: Arrays) -> bytes:
    """Arrays by name as the bytes of a .npz file."""
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def unpack_arrays(content: bytes) -> Arrays:
    """The arrays of a .npz file, none of which may hold Python objects.

    Raises:
        ValueError: If one does, or the bytes are no such file.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
