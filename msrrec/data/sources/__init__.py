"""The table of all sources of purchases and items, by their names on the command line.

To add a source, write a subclass of ``Source`` in a file here and add one line to the table.
"""

from msrrec.config import DataConfig
from msrrec.data.sources.amazon import Amazon
from msrrec.data.sources.base import Inputs, Source
from msrrec.data.sources.demo import Demo, find_followers, tally_ceiling
from msrrec.data.sources.movielens import MovieLens
from msrrec.data.sources.table import Table
from msrrec.errors import ConfigError

__all__ = ["SOURCES", "Inputs", "Source", "find_followers", "make_source", "tally_ceiling"]

SOURCES: dict[str, type[Source]] = {
    "table": Table,
    "amazon": Amazon,
    "movielens": MovieLens,
    "demo": Demo,
}


def make_source(name: str, config: DataConfig) -> Source:
    """The source with a given name.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in SOURCES:
        raise ConfigError(f"--source {name!r} is unknown; expected one of {', '.join(SOURCES)}")
    return SOURCES[name](config)
