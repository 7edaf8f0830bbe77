"""Kinds of files by their first bytes, where a file is not the text that its name promises."""

from msrrec.errors import DataError

_PACKED = "unpack it"
_KINDS = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it or export it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "export it as CSV"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"ORC", "an ORC file", "convert it to Parquet"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet"),
    (b"ARROW1", "an Arrow file", "convert it to Parquet"),
    (b"SQLite format 3\0", "an SQLite database", "export its tables as CSV"),
    (b"BZh", "packed by bzip2", _PACKED),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", _PACKED),
    (b"\xfd7zXZ\0", "packed by xz", _PACKED),
    (b"\x04\x22\x4d\x18", "packed by lz4", _PACKED),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACKED),
    (b"\x1f\x8b", "packed by gzip twice", "unpack it once"),
    (b"%PDF-", "a PDF", "export the table as CSV"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of a file", "run git lfs pull"),
)
_SAMPLE = 1024


def refuse_binary(path: str, head: bytes) -> None:
    """Refuse a file whose first bytes (after gzip) are those of another kind than text.

    Raises:
        DataError: If they are; names the kind, and what to do.
    """
    for start, kind, advice in _KINDS:
        is_sure = len(start) > 4 or not start.decode("latin-1").isprintable()
        if head.startswith(start) and (is_sure or not head[:_SAMPLE].isascii()):
            raise DataError(
                f"{path}: is {kind}, as its first bytes {head[:4]!r} say; expected text or gzip of "
                f"text, so {advice}"
            )


def guess_unmarked(content: bytes) -> str | None:
    """The encoding of UTF-16 or UTF-32 without a byte order mark; None where it is neither.

    Every second byte of mostly Latin text in UTF-16, and three of four in UTF-32, are zero.
    """
    sample = content[:_SAMPLE]
    for name, size, zeros in (
        ("utf-32-le", 4, (2, 3)),
        ("utf-32-be", 4, (0, 1)),
        ("utf-16-le", 2, (1,)),
        ("utf-16-be", 2, (0,)),
    ):
        units = len(sample) // size
        if units > 1 and all(sample[n::size].count(0) > 0.7 * units for n in zeros):
            return name
    return None
