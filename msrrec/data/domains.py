"""The name of the shop in prompts, such as Electronics, derived from the name of a file."""

import re

from msrrec import storage

_GENERIC = re.compile(
    r"(?:interactions|ratings|reviews|events|orders|purchases|transactions|train|data|u"
    r"|part-?\d.*|[^=]+=[^=]*)",
    re.IGNORECASE,
)
"""Names that say nothing of the shop; those of parts and partitions, such as ``year=2024``, too."""
_EXTENSIONS = re.compile(
    r"(?:(?:\.(?:c\d+|snappy|zstd|gz|gzip|lz4))?\.(?:csv|tsv|json|jsonl|ndjson|parquet|dat|data|\*))?"
    r"(?:\.gz)?$",
    re.IGNORECASE,
)


def name_after_file(interactions: str | None, affixes: re.Pattern[str] | None = None) -> str:
    """The name of a file, or of its folder if the file has a generic name like ``ratings.csv``.

    Underscores become spaces.

    Args:
        interactions: The path given on the command line.
        affixes: Prefixes and suffixes to remove, which a source's releases add to names.
    """
    path = storage.without_options(interactions or "").partition("://")[2] or interactions or ""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    names = [_EXTENSIONS.sub("", part, count=1) for part in reversed(parts)]
    usable = (n for n in names if not _GENERIC.fullmatch(n) and not set(n) & set("*?["))
    name = next(usable, "shop")
    if affixes is not None:
        name = affixes.sub("", name)
    return name.replace("_", " ")
