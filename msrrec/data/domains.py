"""What prompts call a shop, from the name of its interactions, such as Electronics."""

import re

_GENERIC_NAMES = {"interactions", "ratings", "reviews", "events", "train", "data", "u"}
_EXTENSIONS = re.compile(r"(?:\.(?:csv|json|jsonl|ndjson|parquet|dat|data))?(?:\.gz)?$")


def name_after_file(interactions: str | None, affixes: re.Pattern[str] | None = None) -> str:
    """The name of the file, or of its folder where the file's is as general as ``ratings.csv``.

    With spaces for underscores.

    Args:
        interactions: The path that the command line was given.
        affixes: What a source's releases put around the name.
    """
    parts = [part for part in (interactions or "").split("/") if part not in ("", ".", "..")]
    names = [_EXTENSIONS.sub("", part) for part in reversed(parts)]
    usable = (n for n in names if n.lower() not in _GENERIC_NAMES and not set(n) & set("*?["))
    name = next(usable, "shop")
    if affixes is not None:
        name = affixes.sub("", name)
    return name.replace("_", " ")
