"""A file that is no text says what it is by its first bytes."""

import bz2
import gzip
import io
import zipfile
from pathlib import Path

import polars as pl
import pytest

from msrrec.data import readers
from msrrec.errors import DataError

TEXT = b"user_id,item_id,timestamp\nann,i1,1400000000\n"


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.csv", TEXT)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pl.DataFrame({"user_id": ["é"]}).write_parquet(sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (zipped(), "a zip archive or an Excel workbook"),
        (gzip.compress(zipped()), "a zip archive or an Excel workbook"),
        (parquet(), "a Parquet file"),
        (bz2.compress(TEXT), "packed by bzip2"),
        (gzip.compress(gzip.compress(TEXT)), "packed by gzip twice"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
@pytest.mark.parametrize("name", ["e.csv", "e.jsonl"])
def test_another_kind_under_the_name_of_text_is_named(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: is {kind}.* first bytes"):
        readers.read_content(str(path))


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT)])
def test_gzip_is_known_whatever_its_name_says(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(content)
    assert readers.read_content(str(path)) == TEXT


@pytest.mark.parametrize("header", [b"ORC,b\n1,2\n", b"PAR1,b\n1,2\n", b"BZh,b\n1,2\n"])
def test_a_header_that_begins_alike_is_text(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(header)
    assert readers.read_content(str(path)) == header
