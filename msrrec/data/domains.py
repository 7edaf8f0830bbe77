"""The name of the shop in prompts, such as Electronics, derived from the name of a file."""

import re

_GENERIC_NAMES = {"interactions", "ratings", "reviews", "events", "train", "data", "u"}
_EXTENSIONS = re.compile(r"(?:\.(?:csv|json|jsonl|ndjson|parquet|dat|data))?(?:\.gz)?$")


def name_after_file(interactions: str | None, affixes: re.Pattern[str] | None = None) -> str:
    """The name of a file, or of its folder if the file has a generic name like ``ratings.csv``.

    Underscores become spaces.

    Args:
        interactions: The path given on the command line.
        affixes: Prefixes and suffixes to remove, which a source's releases add to names.
    """
    parts = [part for part in (interactions or "").split("/") if part not in ("", ".", "..")]
    names = [_EXTENSIONS.sub("", part) for part in reversed(parts)]
    usable = (n for n in names if n.lower() not in _GENERIC_NAMES and not set(n) & set("*?["))
    name = next(usable, "shop")
    if affixes is not None:
        name = affixes.sub("", name)
    return name.replace("_", " ")
